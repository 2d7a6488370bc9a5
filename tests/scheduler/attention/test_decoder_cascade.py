"""A decoder whose tokens and heads leave layer after layer, on the golden machine against the algorithm in PyTorch."""

import itertools
from functools import partial

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from models.attention import PruningPolicy, Quantization, Schedule, prune
from models.machine import Machine
from scheduler.attention.decoder import DecoderProgram, compile_decoder
from tests.scheduler.attention.support import TINY, Case, big_code, check, gpt2, llama
from tests.scheduler.support import used

PROMPT, TOKENS, LAYERS, HEADS = 12, 8, 4, 4
ROOM = PROMPT + TOKENS
POLICIES = {
    "heads": {"heads": Schedule(shares=(1.0, 0.75, 0.75, 0.5))},
    "first layer whole": {"tokens": Schedule(caps=(40, 12, 12, 5)), "protect_first": 0, "forgetting": 0.5},
    "all": {
        "tokens": Schedule(caps=(14, 10, 8, 6)),
        "heads": Schedule(caps=(4, 3, 2, 2)),
        "values": Schedule(shares=(0.8,) * LAYERS),
        "quantization": Quantization.parse("8+4", threshold=0.2),
        "recent": 3,
    },
}


@pytest.fixture(scope="module")
def case() -> Case:
    return gpt2(ROOM, layers=LAYERS, heads=HEADS)


def last_norm(model: torch.nn.Module) -> torch.nn.Module:
    """What the host does behind the layers."""
    return next(part for name, part in model.named_children() if name in ("ln_f", "norm"))


def held(program: DecoderProgram, memory: np.ndarray, keys: tuple[int, ...]) -> list[list[int]]:
    """Positions that each layer attended to in the run of a token, by what the run wrote."""
    places, found, gone = program.slots.places, [], set()
    positions = memory[places.positions :].view("<i4")
    for layer, count in enumerate(keys):
        if layer in places.lists:
            gone.add(int(memory[places.lists[layer] :][:2].view("<u2")[0]))
        found.append(sorted(positions[slot] for slot in range(count) if slot not in gone))
    return found


def by_pytorch(case: Case, policy: PruningPolicy) -> list[tuple[np.ndarray, list[list[int]]]]:
    """Hidden states of the prompt's survivors and of each token, and the positions in the caches."""
    ids, cache, found = case.inputs["input_ids"], DynamicCache(config=case.model.config), []
    with torch.no_grad(), prune(case.model, policy, case.magnitudes) as pruned:
        for start, end in itertools.pairwise([0, *range(PROMPT, ROOM + 1)]):
            hidden = case.model(input_ids=ids[:, start:end], past_key_values=cache).last_hidden_state
            places = [one.positions[0][one.live[0]].tolist() for one in pruned.cascade.caches]
            found.append((hidden[0][pruned.live[0]].numpy(), places))
    return found


def by_machine(case: Case, program: DecoderProgram) -> list[tuple[np.ndarray, list[list[int]]]]:
    """The same by the two programs; of the prompt without positions."""
    machine = used(Machine(TINY, {0: program.image(case.hidden[0, :PROMPT].numpy())}))
    machine.run(program.prompt.code.encode())
    memory = np.frombuffer(machine.memory.read(0, program.memory_size), np.uint8).copy()
    found = [(program.prompt.read_output(memory), [])]
    for position in range(PROMPT, ROOM):
        program.write_token(memory, position, *case.token(position))
        machine.memory.write(0, memory.tobytes())
        machine.run(program.token.code.encode())
        memory = np.frombuffer(machine.memory.read(0, program.memory_size), np.uint8).copy()
        keys = program.slots.capacity.keys(position)
        places = held(program, memory, keys) if program.slots.capacity.evicts else []
        found.append((program.token.read_output(memory), places))
    return found


def compare(case: Case, policy: PruningPolicy) -> None:
    """The same tokens in each layer for every token, and hidden states that are close."""
    program = compile_decoder(case.graphs(PROMPT), TINY, policy, case.magnitudes, room=ROOM)
    check(program.prompt)
    check(program.token)
    wanted, found = by_pytorch(case, policy), by_machine(case, program)
    for (_, places), (_, expected) in zip(found[1:], wanted[1:], strict=True):
        assert places == (expected if policy.tokens else [])
    with torch.no_grad():
        rows = [last_norm(case.model)(torch.from_numpy(hidden)).numpy() for hidden, _ in found]
    errors = np.concatenate([one - other for one, (other, _) in zip(rows, wanted, strict=True)])
    assert np.sqrt((errors**2).mean()) < 0.02


@pytest.mark.parametrize("name", POLICIES)
def test_tokens_and_heads_are_those_of_the_algorithm(case, name):
    compare(case, PruningPolicy(**POLICIES[name]))


SHARED = {"big code": big_code, "llama": partial(llama, kv_heads=2), "qwen2": partial(llama, kv_heads=2, kind="Qwen2")}


@pytest.mark.parametrize("make", SHARED.values(), ids=SHARED)
@pytest.mark.parametrize("heads", [None, Schedule(caps=(4, 1))], ids=["all heads", "one head"])
def test_heads_that_share_keys(make, heads):
    """Where one head is left, nobody needs the keys of another group."""
    compare(make(ROOM, layers=2, heads=4), PruningPolicy(tokens=Schedule(caps=(15, 8)), heads=heads))
