"""Whole encoders on the golden machine against PyTorch: float32, and the pruning algorithm with the same scales."""

import numpy as np
import pytest
import torch

from models.attention import PruningPolicy, Quantization, Schedule
from models.machine import Machine
from models.pattern import Pattern
from tests.scheduler.attention.support import TINY, Case, check, run

CLOSE = 0.02
"""Hidden states are normalised, so of the order of 1, and FP16 between all kernels."""


def rms(values: np.ndarray) -> float:
    return float(np.sqrt((values**2).mean()))


@pytest.mark.parametrize(("tokens", "heads", "head_size"), [(8, 2, 16), (13, 2, 32), (1, 1, 16), (30, 4, 16)])
def test_nothing_pruned_is_pytorch_in_float32(tokens, heads, head_size):
    case = Case.bert(tokens, heads=heads, head_size=head_size)
    program = case.compile(PruningPolicy())
    check(program)
    hidden, positions = run(program, case.hidden)
    assert positions.tolist() == list(range(tokens))
    np.testing.assert_allclose(hidden, case.plain(), atol=CLOSE)


@pytest.mark.parametrize(("bits", "threshold"), [("4+4", 0), ("4+4", 0.2), ("6+4", 0), ("6+4", 0.2), ("8+4", 2)])
def test_bits_are_those_of_the_algorithm(bits, threshold):
    """FP16 between kernels puts a few values on the other side of a step, so the mean is compared, not the largest."""
    case = Case.bert(12)
    policy = PruningPolicy(quantization=Quantization.parse(bits, threshold=threshold, value_lsb="with_keys"))
    wanted, _ = case.pruned(policy)
    hidden, _ = run(case.compile(policy), case.hidden)
    assert rms(hidden - wanted) < CLOSE / 2


def test_lsbs_of_single_keys():
    case = Case.bert(12)
    policy = PruningPolicy(quantization=Quantization.parse("6+4", threshold=0.5, cutoff=0.1))
    wanted, _ = case.pruned(policy)
    hidden, _ = run(case.compile(policy), case.hidden)
    assert rms(hidden - wanted) < CLOSE / 2


def test_keys_that_the_buffer_does_not_hold_are_fetched_for_every_row():
    """40 keys of 32 elements take 80 words, the buffer of the preset has 64."""
    case = Case.bert(40, layers=1, head_size=32)
    policy = PruningPolicy(values=Schedule(shares=(0.5,)), quantization=Quantization.parse("8+4"))
    program = case.compile(policy)
    check(program)
    hidden, _ = run(program, case.hidden)
    assert rms(hidden - case.pruned(policy)[0]) < CLOSE / 2


def test_few_bits_are_seen_in_the_result():
    """The comparison above is sharp enough: with other bits it would fail."""
    case = Case.bert(12)
    few = PruningPolicy(quantization=Quantization.parse("4+4", threshold=0, value_lsb="never"))
    hidden, _ = run(case.compile(few), case.hidden)
    assert rms(hidden - case.plain()) > 2 * CLOSE


@pytest.mark.parametrize("seed", range(3))
def test_cascade_keeps_the_tokens_and_heads_of_the_algorithm(seed):
    case = Case.bert(21, layers=3, heads=4, seed=seed)
    policy = PruningPolicy(
        tokens=Schedule(shares=(1.0, 0.7, 0.4)),
        heads=Schedule(shares=(1.0, 0.75, 0.5)),
        values=Schedule(shares=(0.8, 0.8, 0.8)),
        quantization=Quantization.parse("8+4", threshold=0.2),
        protect_first=seed,
    )
    program = case.compile(policy)
    check(program)
    assert [(one.tokens, one.heads) for one in program.kept] == [(21, 4), (15, 3), (9, 2)]
    hidden, positions = run(program, case.hidden)
    wanted, kept = case.pruned(policy)
    assert positions.tolist() == kept.tolist()
    np.testing.assert_allclose(hidden, wanted, atol=2 * CLOSE)


def test_rows_of_pruned_tokens_are_not_computed():
    """Layer 0 has products of 24 rows up to the output of its attention, then everything has 6."""
    case = Case.bert(24)
    program = case.compile(PruningPolicy(tokens=Schedule(shares=(1.0, 0.25))))
    products = [item for item in program.places.decisions if item.stage == "FF"]
    tensors = program.places.graph.tensors
    assert [tensors[item.kernel].shape[2] for item in products] == [24] * 4 + [6] * 8


def test_sparse_weights():
    case = Case.bert(9, layers=1)
    with torch.no_grad():
        for name, weight in case.model.named_parameters():
            if weight.dim() == 2 and "encoder" in name:
                grouped = weight.view(len(weight), -1, 8)
                kept = torch.zeros_like(grouped).scatter(2, grouped.abs().topk(2, dim=2).indices, 1.0)
                weight.copy_((grouped * kept).view_as(weight))
    case = Case.of(case.model, case.inputs)
    program = case.compile(PruningPolicy(), pattern=Pattern(2, 8))
    check(program)
    assert all(item.operands["sparse"] for item in program.code.commands if item.opcode.name == "TENSOR")
    hidden, _ = run(program, case.hidden)
    np.testing.assert_allclose(hidden, case.plain(), atol=CLOSE)


def test_a_program_runs_sequence_after_sequence():
    """The engine's state of the sequence before is cleared."""
    case = Case.bert(15, layers=2, heads=4)
    policy = PruningPolicy(tokens=Schedule(shares=(1.0, 0.5)), heads=Schedule(shares=(1.0, 0.5)))
    program = case.compile(policy)
    machine = Machine(TINY, {0: program.image(case.hidden[0].flip(0).numpy())})
    machine.run(program.code.encode())
    memory = np.frombuffer(machine.memory.read(0, program.memory_size), np.uint8).copy()
    program.write_input(memory, case.hidden[0].numpy())
    machine.memory.write(0, memory.tobytes())
    machine.run(program.code.encode())
    memory = np.frombuffer(machine.memory.read(0, program.memory_size), np.uint8)
    hidden, positions = run(program, case.hidden)
    assert program.survivors(memory).tolist() == positions.tolist()
    np.testing.assert_array_equal(program.read_output(memory), hidden)
