"""The job `decode`: prompts and the tokens after them, on RTL and on the golden machine."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from models.attention import prune
from models.attention.calibrate import calibrate
from sim.attention.decode_example import GPT2_RANDOM, gpt2_random_example
from sim.attention.decode_job import DecodeJob, run_job
from sim.attention.decode_report import COLUMNS, DecodeReport
from sim.attention.example import function_example
from tests.sim.attention.encode_support import DECODERS, models_file

PRUNED = {"tokens": 0.5, "values": 0.8, "bits": "6+4", "threshold": 0.2, "forgetting": 0.75}
PROMPT = tuple(range(3, 12))


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    return models_file(tmp_path_factory.mktemp("models"), DECODERS)


@pytest.fixture
def job(models):
    def make(function: str, **options: object) -> DecodeJob:
        model = function if function == GPT2_RANDOM else f"{models}:{function}"
        return DecodeJob(model=model, **{"arch": "tiny_attention", "backend": "golden"} | options)

    return make


@pytest.fixture
def decode(job):
    return lambda function, **options: run_job(job(function, **options), progress=lambda text: None)


@pytest.mark.verilator
@pytest.mark.parametrize(
    ("function", "options"),
    [("gpt2", PRUNED | {"heads": "1", "stalls": 0.2, "seed": 3}), ("llama", {"sparsity": "2:8"})],
    ids=["pruned", "grouped queries"],
)
def test_rtl_is_golden_and_takes_what_the_model_says(decode, function, options):
    """The golden backend then says the same of each run."""
    options = options | {"new_tokens": 2}
    rtl, golden = decode(function, **options, backend="rtl"), decode(function, **options)
    assert len(rtl.runs) == 3
    assert rtl.comparison.equal, rtl.comparison.first
    assert [run.cycles for run in rtl.runs] == [run.model_cycles for run in rtl.runs]
    assert all(0 < run.attend_busy < run.cycles and 0 < run.array_busy < run.cycles for run in rtl.runs)
    said = [report.to_json() for report in (rtl, golden)]
    assert {name for name in said[0] if said[0][name] != said[1][name]} == {"comparison", "settings", "runs"}
    for one, other in zip(said[0]["runs"], said[1]["runs"], strict=True):
        assert {name for name in one if one[name] != other[name]} == {"comparison"}
    assert golden.comparison is None


@pytest.mark.parametrize("function", [GPT2_RANDOM, "language", "llama"])
def test_without_pruning_tokens_are_those_that_transformers_generates(decode, job, function):
    found = decode(function, new_tokens=3)
    example = gpt2_random_example(None, 0) if function == GPT2_RANDOM else function_example(job(function))
    ids = example.inputs["input_ids"]
    with torch.no_grad():
        options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
        written = example.model.generate(ids, **options)[0].tolist()
    assert [*found.prompt, *found.chosen] == written
    assert found.prompt == tuple(ids[0].tolist())
    assert [run.token for run in found.runs] == written[ids.shape[1] - 1 : -1]
    assert [run.position for run in found.runs] == list(range(ids.shape[1] - 1, len(written) - 1))
    assert [one.chosen for one in found.agreement] == list(found.chosen)
    assert min(one.cosine for one in found.agreement) > 0.9999


def by_pytorch(job: DecodeJob, found: DecodeReport) -> list[tuple[torch.Tensor, tuple[int, ...]]]:
    """Hidden state behind the layers, and tokens in their caches, of each run by the algorithm with the same tokens."""
    example = function_example(job)
    model, ids = example.model, torch.tensor([[*found.prompt, *found.chosen]])
    policy = job.decoder_policy(2, 2, len(found.prompt) + job.new_tokens)
    magnitudes = calibrate(model, [example.inputs])
    behind, rows, cache = [], [], DynamicCache(config=model.config)
    cuts = [0, *(run.position + 1 for run in found.runs)]
    with torch.no_grad(), prune(model, policy, magnitudes) as pruned:
        model.ln_f.register_forward_pre_hook(lambda _, given: behind.append(given[0][0, -1]))
        for start, end in itertools.pairwise(cuts):
            model(input_ids=ids[:, start:end], past_key_values=cache)
            rows.append((behind[-1], tuple(int(one.live.sum()) for one in pruned.cascade.caches)))
    return rows


def test_pruned_tokens_are_those_of_the_algorithm(decode, job):
    """Near ties that FP32 breaks otherwise put single rows off, but not as far as what is pruned."""
    options = PRUNED | {"heads": "1", "recent": 3, "new_tokens": 4}
    found = decode("gpt2", **options)
    wanted = by_pytorch(job("gpt2", **options), found)
    assert [run.kept for run in found.runs] == [kept for _, kept in wanted]
    hidden = torch.from_numpy(np.stack([run.hidden for run in found.runs]))
    cosines = torch.cosine_similarity(hidden, torch.stack([state for state, _ in wanted]))
    assert cosines.min() > 0.99
    assert cosines.median() > 0.9998
    assert max(one.cosine for one in found.agreement) < 0.99
    assert [run.kept for run in found.runs] == [(9, 7), (10, 7), (11, 7), (12, 7), (13, 7)]
    assert found.heads == (2, 1)


def test_padding_is_left_out(decode):
    padded, short = decode("padded", new_tokens=2), decode("gpt2", new_tokens=2)
    assert padded.prompt == short.prompt == PROMPT
    assert padded.runs == short.runs


def test_the_first_layers(decode):
    """Behind them come the model's last normalisation and its words."""
    found = decode("gpt2", layers=1, new_tokens=1)
    assert [run.kept for run in found.runs] == [(9,), (10,)]
    assert min(one.cosine for one in found.agreement) > 0.9999
    assert found.runs[1].cycles < decode("gpt2", new_tokens=1).runs[1].cycles


def test_a_prompt_of_one_token(decode):
    """Steps of quantisation come from it alone, so that larger values of later tokens are cut."""
    found = decode("one", new_tokens=2)
    assert found.prompt == PROMPT[:1]
    assert found.agreement[0].cosine > 0.9999
    assert min(one.cosine for one in found.agreement) > 0.99


def test_a_text_is_the_prompt(decode):
    found = decode(GPT2_RANDOM, text=" ~A", layers=1, new_tokens=1)
    assert found.prompt == (0, 94, 33)
    assert found.text(found.prompt) == "' ~A'"


def test_sparse_weights_and_fewer_bits_move_fewer_bytes(decode):
    whole, bits, sparse = (
        decode("gpt2", new_tokens=1, **options)
        for options in ({}, {"bits": "4+4", "threshold": 0}, {"sparsity": "2:8"})
    )
    assert bits.runs[1].bytes_read < whole.runs[1].bytes_read
    assert sparse.runs[1].bytes_read < 0.6 * whole.runs[1].bytes_read
    assert sparse.runs[1].array_busy < whole.runs[1].array_busy


def test_what_is_said_is_plain_data(decode, tmp_path):
    found = decode("gpt2", **PRUNED, new_tokens=2, output=tmp_path / "out")
    said = json.loads((tmp_path / "out" / "report.json").read_text())
    assert said == json.loads(json.dumps(found.to_json()))
    assert said["settings"]["new_tokens"] == 2
    assert [run["token"] for run in said["runs"]] == [PROMPT[-1], *said["chosen"][:-1]]
    for name, count in said["instructions"].items():
        spans = json.loads((tmp_path / "out" / f"{name}_timeline.json").read_text())["traceEvents"]
        assert len([span for span in spans if span.get("cat") == "instruction"]) == count
        assert f"; {count} instructions for tiny_attention" in (tmp_path / "out" / f"{name}.lst").read_text()
    assert np.load(tmp_path / "out" / "outputs.npz")["hidden"].shape == (3, 32)
    table = (tmp_path / "out" / "tokens.md").read_text().splitlines()
    assert len(table) == 5
    assert {line.replace("\\|", "").count("|") for line in table} == {len(COLUMNS) + 1}
