"""MiniLM on the golden machine: the table on the page, one layer with trained weights, refusals of the command."""

import json
import re
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from hwgen.arch import load
from hwgen.arch.attention import JOB_BYTES, RECORD_BYTES
from hwgen.arch.services import SERVICE_BYTES
from models.attention import PruningPolicy, Quantization, Schedule, embedding
from models.memory import Memory
from scheduler.attention.capture import capture_encoder
from scheduler.attention.encoders import encoder_of
from scheduler.attention.lower import compile_encoder
from sim.attention import minilm
from sim.attention.counted import traffic
from tests.scheduler.attention.support import Case

ROOT = Path(__file__).parents[3]
FILE = ROOT / "sim" / "results" / "minilm.json"
PAGE = (ROOT / "scheduler" / "attention" / "README.md").read_text()


def rows() -> list[dict]:
    return json.loads(FILE.read_text())["rows"]


def test_figures_are_those_of_the_result_file():
    (shown,) = re.findall(r"<!-- minilm -->\n\n(.*?)\n<!-- /minilm -->", PAGE, re.DOTALL)
    assert shown == minilm.markdown(rows())


def test_result_file_is_whole():
    settings = [asdict(setting) for setting in minilm.SETTINGS]
    assert [{name: row[name] for name in settings[0]} for row in rows()] == settings


def test_without_pruning_embeddings_are_those_of_float32():
    whole, *others = rows()
    assert whole["cosine"] > 0.9995
    assert whole["rank"] > 0.999
    assert all(row["attention"] < whole["attention"] for row in others if row["bits"] != whole["bits"])


def test_fewer_tokens_take_less():
    """Less time and less traffic, of the whole program and of attention."""
    kept = [row for row in rows() if row["values"] < 1 and row["heads"] == 1]
    assert [row["tokens"] for row in kept] == [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]
    for name in ("cycles", "cycles_attend", "bytes", "attention", "array"):
        assert all(one[name] > following[name] for one, following in pairwise(kept)), name


def test_bytes_of_attention():
    """Planes of 12 + 12 + 12 bits, descriptor, records and outputs of two layers: each is read or written once."""
    program = Case.bert(12).compile(PruningPolicy(quantization=Quantization.parse("8+4")))
    values = 12 * 2 * 16
    layer = 3 * values * 12 // 8 + JOB_BYTES + 2 * RECORD_BYTES + 2 * values
    found = traffic(program, Memory({0: program.image()}))
    assert found["attention"] == 2 * layer
    assert found["instructions"] == len(program.code.commands)


def test_a_layer_with_trained_weights():
    model = embedding.load()
    tokens = model.tokens(embedding.texts("sentences")[:3])
    subject = minilm.Subject(model, encoder_of(model.model, 1), minilm.calibrate_on(model, tokens)[:1])
    hidden = subject.hidden(tokens[0])
    graph = capture_encoder(subject.encoder.body, hidden)
    program = compile_encoder(graph, load("small_attention"), PruningPolicy(), subject.magnitudes)
    with torch.no_grad():
        wanted = subject.encoder.body(hidden)[0].mean(0)
    found, taken = minilm.embed(program, hidden)
    assert torch.nn.functional.cosine_similarity(found, wanted, dim=0) > 0.99999
    assert taken["cycles"] > taken["cycles_attend"] > 0


def test_bytes_of_other_jobs():
    """QUANTIZE reads operands and writes planes; GATHER reads and writes the rows that stay, each once."""
    case, bits = Case.bert(12), Quantization.parse("8+4")
    whole, pruned = (
        traffic(program, Memory({0: program.image()}))["services"]
        for program in (
            case.compile(PruningPolicy(tokens=tokens, quantization=bits))
            for tokens in (None, Schedule(shares=(1.0, 0.5)))
        )
    )
    row = 2 * 16
    descriptors, steps = 3 * SERVICE_BYTES, 3 * 2 * 4
    quantize = 12 * row * 3 * 2 + 12 * row * 3 * 12 // 8 + descriptors + steps
    assert whole == 2 * quantize
    select = SERVICE_BYTES + 2 * 6
    gather = SERVICE_BYTES + 2 * 6 + 2 * (6 * row * 2)
    assert pruned == whole - 6 * row * 3 * 2 - 6 * row * 3 * 12 // 8 + select + gather


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--texts", "books"], "unknown texts 'books': there are paragraphs, sentences"),
        (["--first", "0"], f"1 to {len(minilm.SETTINGS)} settings can be measured, not 0"),
        (["--rtl-layers", "7"], "the model has 6 layers: 1 to 6 of them can run, not 7"),
        (["--arch", "sat32", "--first", "1"], "architecture sat32 has no attention engine"),
    ],
)
def test_refusals(arguments, text, tmp_path):
    app = typer.Typer()
    app.command()(minilm.main)
    result = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path)])
    assert result.exit_code == 2
    assert text in " ".join(result.output.split())
    assert np.all([not path.is_file() for path in tmp_path.iterdir()])
