"""The job `encode`: small encoders with pruned attention on RTL and on the golden machine."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hwgen.arch import load
from models.attention import PruningPolicy, Quantization, Schedule
from sim.attention.encode_job import EncodeJob, run_job
from sim.attention.encode_report import EncodeReport
from tests.scheduler.attention.support import Case
from tests.sim.attention.encode_support import models_file

PRUNED = {"tokens": 0.5, "heads": "1", "values": 0.8, "bits": "6+4", "threshold": 0.2}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    return models_file(tmp_path_factory.mktemp("models"))


@pytest.fixture
def encode(models):
    def run(function: str, **options: object) -> EncodeReport:
        job = EncodeJob(model=f"{models}:{function}", **{"arch": "tiny_attention", "backend": "golden"} | options)
        return run_job(job, progress=lambda text: None)

    return run


@pytest.mark.verilator
@pytest.mark.parametrize(
    ("function", "options"),
    [("bert", PRUNED | {"stalls": 0.2, "seed": 3}), ("one_layer", {"sparsity": "2:8"})],
    ids=["pruned", "whole"],
)
def test_rtl_is_golden_and_takes_what_the_model_says(encode, function, options):
    """The golden backend then says what RTL says, event by event."""
    rtl, golden = encode(function, **options, backend="rtl"), encode(function, **options)
    assert rtl.comparison.equal, rtl.comparison.first
    assert rtl.model_cycles == rtl.cycles == golden.cycles
    assert golden.comparison is None
    assert rtl.busy == golden.busy
    assert min(rtl.busy.values()) > 0
    assert np.array_equal(rtl.run.memory, golden.run.memory)
    assert np.array_equal(rtl.run.states, golden.run.states)
    assert len(rtl.run.events) == len(golden.run.events)
    said = [report.to_json() for report in (rtl, golden)]
    assert {name for name in said[0] if said[0][name] != said[1][name]} == {"comparison", "settings"}


def test_survivors_are_those_of_the_algorithm(encode):
    found = encode("bert", **PRUNED, seed=4)
    case = Case.bert(17, seed=4)
    policy = PruningPolicy(
        tokens=Schedule(shares=(1.0, 0.5)),
        heads=Schedule(caps=(2, 1)),
        values=Schedule(shares=(0.8, 0.8)),
        quantization=Quantization.parse("6+4", threshold=0.2),
        protect_first=0,
    )
    hidden, positions = case.pruned(policy)
    assert list(found.survivors) == positions.tolist()
    assert np.abs(found.outputs["hidden"] - hidden).max() < 0.05
    means = torch.from_numpy(hidden).mean(0), torch.from_numpy(case.plain()).mean(0)
    assert found.cosine == pytest.approx(float(torch.nn.functional.cosine_similarity(*means, dim=0)), abs=1e-3)
    assert [(one.tokens, one.heads) for one in found.kept] == [(17, 2), (9, 1)]


@pytest.mark.parametrize(("function", "tokens"), [("bert", 17), ("vit", 17), ("gpt2", 17), ("padded", 11)])
def test_without_pruning_hidden_states_are_those_of_float32(encode, function, tokens):
    found = encode(function)
    assert found.survivors == tuple(range(tokens))
    assert found.cosine > 0.99999
    assert found.error < 0.02
    assert found.words == ()


def test_padding_is_left_out(encode):
    padded, short = encode("padded"), encode("short")
    assert padded.cycles == short.cycles
    assert np.array_equal(padded.outputs["hidden"], short.outputs["hidden"])


def test_the_first_layers(encode):
    assert encode("bert", layers=1).kept == encode("one_layer").kept
    assert len(encode("bert", layers=2).kept) == 2


def test_heads_are_a_share_or_a_count(encode):
    share, count = (encode("bert", heads=heads) for heads in ("0.5", "1"))
    assert share.kept == count.kept
    assert share.kept[-1].heads == 1
    assert encode("bert", heads="2").kept == encode("bert", heads="1.0").kept


def test_the_seed_is_that_of_the_weights(encode):
    first, same, other = (encode("bert", seed=seed).outputs["hidden"] for seed in (1, 1, 2))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


def test_fewer_bits_and_sparse_weights_move_fewer_bytes(encode):
    whole, bits, sparse = encode("bert"), encode("bert", bits="4+4", threshold=0), encode("bert", sparsity="2:8")
    assert bits.bytes_moved < whole.bytes_moved
    assert sparse.bytes_moved < whole.bytes_moved
    assert sparse.busy["array"] < whole.busy["array"]


def test_what_is_said_is_plain_data(encode, tmp_path):
    found = encode("bert", **PRUNED, output=tmp_path / "out")
    said = json.loads((tmp_path / "out" / "report.json").read_text())
    assert said == json.loads(json.dumps(found.to_json()))
    assert said["settings"]["tokens"] == 0.5
    assert said["survivors"] == list(found.survivors)
    assert said["memory"]["bytes"] == found.bytes_moved
    spans = json.loads((tmp_path / "out" / "timeline.json").read_text())["traceEvents"]
    assert len([span for span in spans if span.get("cat") == "instruction"]) == found.instructions
    assert np.load(tmp_path / "out" / "outputs.npz")["survivors"].tolist() == said["survivors"]
    assert f"layer 1: {len(said['survivors'])} tokens" in (tmp_path / "out" / "program.lst").read_text()


def test_words_of_minilm():
    options = {"arch": "small_attention", "backend": "golden", "layers": 2, "tokens": 0.5}
    found = run_job(EncodeJob(model="minilm", text="a dog eats", **options), progress=lambda text: None)
    words = ["[CLS]", "a", "dog", "eats", "[SEP]"]
    assert [one.tokens for one in found.kept] == [5, 3]
    assert list(found.words) == [words[place] for place in found.survivors]
    assert found.arch == load("small_attention")
