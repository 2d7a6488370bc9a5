"""A pruned BERT, and pruned decoders token by token, on the Verilated accelerator: all of memory is golden's."""

from functools import partial

import pytest

from models.attention import PruningPolicy, Quantization, Schedule
from models.machine import Machine
from scheduler.attention.decoder import compile_decoder
from sim.check import check_run, run_golden
from sim.memory import MemoryModel
from sim.report import compare
from sim.runner import build, run_on
from tests.scheduler.attention.support import TINY, Case, gpt2, llama

pytestmark = pytest.mark.verilator

POLICY = PruningPolicy(
    tokens=Schedule(shares=(1.0, 0.6)),
    heads=Schedule(shares=(1.0, 0.5)),
    values=Schedule(shares=(0.8, 0.8)),
    quantization=Quantization.parse("6+4", threshold=0.2),
)


@pytest.mark.parametrize("length", [17, 6])
@pytest.mark.parametrize("memory", [MemoryModel(), MemoryModel(read_latency=90, stalls=0.2)], ids=["fast", "slow"])
def test_rtl_is_golden(memory, length):
    """A sequence of 17 tokens, and one that is padded to as many."""
    case = Case.bert(17)
    program = case.compile(POLICY)
    image, code = program.image(case.hidden[0].numpy(), length), program.code
    run = build(TINY).run(image, program=code.address, count=len(code.commands), memory=memory)
    comparison = check_run(run, run_golden(TINY, image, 0, code.encode()), 0)
    assert comparison.equal, comparison.first
    assert run.counters["BUSY_ATTEND"] > 0


GROUPED = partial(llama, heads=4, kv_heads=2), Schedule(caps=(4, 1))
"""In the second layer nobody needs the keys and values of one group."""


@pytest.mark.parametrize(("make", "heads"), [(gpt2, Schedule(caps=(2, 1))), GROUPED], ids=["heads", "grouped"])
def test_tokens_on_rtl_are_golden(make, heads):
    """Two tokens behind a prompt: a full layer gives up a token each time, and one head is left in the second."""
    case, tokens = make(10), Schedule(caps=(8, 5))
    policy = PruningPolicy(tokens=tokens, heads=heads, quantization=POLICY.quantization, values=POLICY.values)
    program = compile_decoder(case.graphs(8), TINY, policy, case.magnitudes, room=10)
    image = program.image(case.hidden[0, :8].numpy())
    machine = Machine(TINY, {0: image})
    with build(TINY).power_up() as device:
        for position in (None, 8, 9):
            code = (program.prompt if position is None else program.token).code
            if position is not None:
                program.write_token(image, position, *case.token(position))
            machine.memory.write(0, image.tobytes())
            machine.run(code.encode())
            run = run_on(device, image, program=code.address, count=len(code.commands))
            assert run.status.ok, run.status
            comparison = compare(run.memory, machine.memory.read(0, image.size), 0)
            assert comparison.equal, comparison.first
            image = run.memory
    places, rows = program.slots.places, program.slots.capacity.rows
    assert [int(image[places.lists[layer]]) < rows[layer] for layer in (0, 1)] == [True, True]
