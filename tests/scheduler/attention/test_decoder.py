"""A prompt and the tokens after it on the golden machine, with keys and values that stay in memory."""

import itertools
import re

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from hwgen.arch import Arch, UserError, load
from models.attention import PruningPolicy, Quantization, Schedule, prune
from models.machine import Machine
from scheduler.attention.decoder import DecoderProgram, compile_decoder
from tests.scheduler.attention.support import TINY, Case, check, gpt2
from tests.scheduler.support import used

PROMPT, TOKENS, ROOM = 9, 5, 20
POLICY = PruningPolicy(values=Schedule(shares=(0.6, 0.6)), quantization=Quantization.parse("8+4", threshold=0.2))


@pytest.fixture(scope="module")
def case() -> Case:
    return gpt2(PROMPT + TOKENS)


def compiled(case: Case, policy: PruningPolicy = POLICY, room: int = ROOM, arch: Arch = TINY) -> DecoderProgram:
    return compile_decoder(case.graphs(PROMPT), arch, policy, case.magnitudes, room=room)


def by_pytorch(case: Case, policy: PruningPolicy) -> list[np.ndarray]:
    """Hidden states of the prompt and of each token, by the algorithm with a cache."""
    ids, cache, found = case.inputs["input_ids"], DynamicCache(config=case.model.config), []
    cuts = [0, *range(PROMPT, PROMPT + TOKENS + 1)]
    with torch.no_grad(), prune(case.model, policy, case.magnitudes):
        for start, end in itertools.pairwise(cuts):
            found.append(case.model(input_ids=ids[:, start:end], past_key_values=cache).last_hidden_state[0].numpy())
    return found


@pytest.mark.parametrize("policy", [PruningPolicy(), POLICY], ids=["whole", "pruned"])
def test_tokens_are_those_of_the_algorithm(case, policy):
    """Near ties that FP32 breaks otherwise put single pruned rows off, so their root mean square is compared."""
    program = compiled(case, policy)
    check(program.prompt)
    check(program.token)
    machine = used(Machine(TINY, {0: program.image(case.hidden[0, :PROMPT].numpy())}))
    machine.run(program.prompt.code.encode())
    found = [program.prompt.read_output(np.frombuffer(machine.memory.read(0, program.memory_size), np.uint8))]
    for position in range(PROMPT, PROMPT + TOKENS):
        memory = np.frombuffer(machine.memory.read(0, program.memory_size), np.uint8).copy()
        program.write_token(memory, position, *case.token(position))
        machine.memory.write(0, memory.tobytes())
        machine.run(program.token.code.encode())
        memory = np.frombuffer(machine.memory.read(0, program.memory_size), np.uint8)
        found.append(program.token.read_output(memory))
    with torch.no_grad():
        normalised = [case.model.ln_f(torch.from_numpy(hidden)).numpy() for hidden in found]
    differences = [hidden - wanted for hidden, wanted in zip(normalised, by_pytorch(case, policy), strict=True)]
    assert [len(rows) for rows in differences] == [PROMPT] + [1] * TOKENS
    errors = np.concatenate(differences)
    assert np.abs(errors).max() < 0.02 or policy is POLICY
    assert np.sqrt((errors**2).mean()) < 0.02


def test_weights_are_shared(case):
    program = compiled(case)
    kinds = [segment.name for segment in program.token.places.memory.segments if segment.kind == "copy"]
    assert len(kinds) == len(set(kinds)) == 8


@pytest.mark.parametrize("position", [PROMPT - 1, ROOM])
def test_positions(case, position):
    program = compiled(case)
    memory = program.image(case.hidden[0, :PROMPT].numpy())
    with pytest.raises(UserError, match=rf"^the position of a token must be in 9..19, not {position}$"):
        program.write_token(memory, position, case.hidden[0, :1].numpy())


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"room": PROMPT}, "the prompt (9 tokens) shorter than the longest sequence (9)"),
        ({"room": 65}, "a layer holds 65 tokens, attention.max_length of tiny_attention is 64"),
        ({"arch": load("sat32")}, "architecture sat32 has no attention engine"),
        ({"policy": PruningPolicy(tokens=Schedule(shares=(1.0, 0.5)))}, "tokens of a decoder are pruned by caps"),
        ({"policy": PruningPolicy(tokens=Schedule(caps=(8, 5)))}, "layer 0 must keep all tokens"),
    ],
)
def test_refusals(case, settings, text):
    with pytest.raises(UserError, match=re.escape(text)):
        compiled(case, **settings)
