"""Padded batches: sequences of different lengths by one program, each as if it were alone."""

import re

import numpy as np
import pytest
import torch

from hwgen.arch import UserError
from models.attention import PruningPolicy, Quantization, Schedule, prune
from models.attention.calibrate import calibrate
from models.machine import Machine
from scheduler.attention.lengths import lengths_of
from scheduler.attention.program import EncoderProgram
from tests.scheduler.attention.support import TINY, Case, check, gpt2, llama, run

LENGTHS = (20, 13, 1, 0, 6)
PRUNED = PruningPolicy(
    tokens=Schedule(shares=(1.0, 0.7, 0.4)),
    heads=Schedule(shares=(1.0, 0.75, 0.5)),
    values=Schedule(shares=(0.8,) * 3),
    quantization=Quantization.parse("8+4", threshold=0.2),
)


def batch(case: Case) -> dict[str, torch.Tensor]:
    """Random words, padded to the length of the case."""
    torch.manual_seed(1)
    tokens = case.hidden.shape[1]
    words = torch.randint(0, 60, (len(LENGTHS), tokens))
    return {"input_ids": words, "attention_mask": (torch.arange(tokens) < torch.tensor(LENGTHS)[:, None]).long()}


def run_batch(program: EncoderProgram, hidden: torch.Tensor, lengths: list[int]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Hidden states and positions of the survivors of each sequence, one behind the other on one machine."""
    machine, found = Machine(TINY, {0: program.image()}), []
    for rows, length in zip(hidden.numpy(), lengths, strict=True):
        memory = np.frombuffer(machine.memory.read(0, program.memory_size), np.uint8).copy()
        program.write_input(memory, rows, length)
        machine.memory.write(0, memory.tobytes())
        machine.run(program.code.encode())
        memory = np.frombuffer(machine.memory.read(0, program.memory_size), np.uint8)
        found.append((program.read_output(memory, length), program.survivors(memory, length)))
    return found


@pytest.mark.parametrize("policy", [PruningPolicy(), PRUNED], ids=["whole", "pruned"])
def test_padded_batches_are_those_of_the_algorithm(policy):
    case = Case.bert(20, layers=3, heads=4)
    inputs = batch(case)
    case.magnitudes = calibrate(case.model, [inputs])
    program = case.compile(policy)
    with torch.no_grad(), prune(case.model, policy, case.magnitudes) as pruned:
        wanted = case.model(**inputs).last_hidden_state
    with torch.no_grad():
        hidden = case.encoder.embed(**inputs)
    found = run_batch(program, hidden, lengths_of(inputs["attention_mask"]))
    for number, (rows, positions) in enumerate(found):
        live = pruned.live[number]
        assert positions.tolist() == pruned.positions[number][live].tolist()
        np.testing.assert_allclose(rows, wanted[number][live].numpy(), atol=0.04)


@pytest.mark.parametrize("make", [Case.bert, gpt2, llama])
def test_a_short_sequence_gives_the_bits_of_a_program_of_its_length(make):
    """Also behind a longer one, and with anything at all in the rows of the padding."""
    case = make(18, layers=3, heads=4)
    program, hidden = case.compile(PRUNED), case.hidden.clone()
    hidden[0, 7:] = torch.nan
    found = run_batch(program, torch.cat([case.hidden, hidden, case.hidden]), [18, 7, 18])
    alone = Case(case.model, {}, case.encoder, case.hidden[:, :7], case.magnitudes, case.graphs(7)[0])
    for (rows, positions), one in zip(found, (case, alone, case), strict=True):
        wanted = run(one.compile(PRUNED), one.hidden)
        assert rows.tobytes() == wanted[0].tobytes()
        assert positions.tolist() == wanted[1].tolist()


@pytest.mark.parametrize("length", [0, 1, 5])
def test_tokens_and_hazards_of_short_sequences(length):
    case = Case.bert(12, layers=2, heads=4)
    program = case.compile(PruningPolicy(tokens=Schedule(shares=(1.0, 0.5))))
    check(program, program.image(case.hidden[0].numpy(), length))


@pytest.mark.parametrize(
    ("mask", "text"),
    [
        ([[0, 1, 1]], "the attention mask of sequence 0 must be ones and then zeros: pad on the right"),
        ([[1, 1, 1], [1, 0, 1]], "the attention mask of sequence 1 must be ones and then zeros: pad on the right"),
        ([[2, 1, 0]], "the attention mask of sequence 0 must be ones and then zeros: pad on the right"),
        ([1, 1, 0], "an attention mask must be integers or booleans [batch, tokens], 1 for a token and 0 for padding"),
        ([[1.0, 0.0]], "an attention mask must be integers or booleans [batch, tokens]"),
    ],
)
def test_masks_that_are_refused(mask, text):
    with pytest.raises(UserError, match=re.escape(text)):
        lengths_of(torch.tensor(mask))


def test_lengths():
    assert lengths_of(torch.tensor([[True, True], [True, False], [False, False]])) == [2, 1, 0]
    case = Case.bert(5, layers=1)
    with pytest.raises(UserError, match=re.escape("a sequence must have 0..5 tokens for this program, not 6")):
        case.compile(PruningPolicy()).image(case.hidden[0].numpy(), 6)
    with pytest.raises(UserError, match=r"^hidden states must be finite numbers of shape \[5, 32\]$"):
        case.compile(PruningPolicy()).image(case.hidden[0].numpy()[:4], 4)
