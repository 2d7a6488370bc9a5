"""The command `encode` as a user meets it: what is printed and written, exit codes, refusals."""

import json

import numpy as np
import pytest

from hwgen.arch import load, preset_names
from sim import check
from tests.cli.support import arch_file, settings
from tests.sim.attention.encode_support import models_file


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return models_file(tmp_path_factory.mktemp("models"))


@pytest.mark.verilator
def test_encode_prints_tables_and_writes_its_files(sparseloom, models, tmp_path):
    arguments = ("--tokens", 0.5, "--heads", 1, "--values", 0.8, "--bits", "6+4", "--threshold", 0.2)
    result = sparseloom("encode", f"{models}:bert", "--arch", "tiny_attention", *arguments, "-o", tmp_path / "out")
    assert result.code == 0, result.err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert f"all {report['comparison']['words']:,} words of memory equal" in result.out
    assert f"{report['cycles']:,} cycles, as many as RTL" in result.out
    assert " ".join(map(str, report["survivors"])) in result.out
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"program.lst", "report.json", "timeline.json", "outputs.npz"}


def test_without_rtl_it_says_so(sparseloom, models):
    result = sparseloom("encode", f"{models}:vit", "--arch", "tiny_attention", "--backend", "golden")
    assert result.code == 0, result.err
    assert "RTL has not run" in result.out
    assert "not compared" in result.out


@pytest.mark.verilator
def test_a_difference_from_golden_is_exit_code_1(sparseloom, models, monkeypatch):
    real = check.compare
    monkeypatch.setattr(check, "compare", lambda actual, golden, base: real(actual ^ np.uint8(1), golden, base))
    result = sparseloom("encode", f"{models}:one_layer", "--arch", "tiny_attention", "--json")
    assert result.code == 1
    assert not json.loads(result.out)["comparison"]["equal"]


# One sentence and exit code 2.


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--tokens", 0), "--tokens must be above 0 and at most 1, not 0.0"),
        (("--tokens", 1.5), "--tokens must be above 0 and at most 1, not 1.5"),
        (("--tokens", "nan"), "--tokens must be above 0 and at most 1, not nan"),
        (("--values", 0), "--values must be above 0 and at most 1, not 0.0"),
        (("--heads", 0), "--heads must be 1 to 2, as many as the model has, or a ratio, not 0"),
        (("--heads", 3), "--heads must be 1 to 2, as many as the model has, or a ratio, not 3"),
        (("--heads", 1.5), "--heads must be above 0 and at most 1, not 1.5"),
        (("--heads", "most"), "--heads must be a number of heads, or a ratio such as 0.5, not 'most'"),
        (("--bits", "5+4"), "bits must be split as one of 4+4, 6+4, 8+4, 10+4, 12+4, not 5+4"),
        (("--bits", "8"), "a bit split is written MSB+LSB, such as 6+4, not '8'"),
        (("--threshold", 0.1), "--threshold says when LSBs are read: give --bits MSB+LSB, such as 6+4"),
        (("--bits", "6+4", "--threshold", -1), "of the largest probability must be a number, 0 or more, not -1.0"),
        (("--bits", "6+4", "--threshold", "nan"), "of the largest probability must be a number, 0 or more, not nan"),
        (("--sparsity", "5:4"), "a sparsity pattern N:M needs 1 <= N <= M, not 5:4"),
        (("--sparsity", "2:32"), "groups of 32 weights are too large: array.group_max is 16"),
        (("--backend", "model"), "backend must be one of rtl, golden, not 'model'"),
        (("--layers", 3), "the model has 2 layers: 1 to 2 of them can run, not 3"),
        (("--layers", 0), "the model has 2 layers: 1 to 2 of them can run, not 0"),
        (("--layers", 1, "--tokens", 0.5), "--tokens below 1 needs 2 layers or more: before layer 0 has run no score"),
        (("--layers", 1, "--heads", 1), "--heads below 1 needs 2 layers or more: before layer 0 has run no score"),
        (("--text", "a dog"), "--text is for minilm; other models bring their example inputs"),
        (("--stalls", 1.5), "memory stalls must be in 0..0.95, not 1.5"),
    ],
)
def test_a_bad_option(assert_refused, models, arguments, error):
    assert_refused("encode", f"{models}:bert", "--arch", "tiny_attention", *arguments, text=error)


def test_a_text_that_is_no_utf_8(assert_refused):
    """As Python gives bytes of the command line that are not."""
    text = "--text must be UTF-8, which it is not at character 4"
    assert_refused("encode", "minilm", "--arch", "tiny_attention", "--text", "bad \udcff", text=text)


@pytest.mark.parametrize(
    ("function", "error"),
    [
        ("nothing", "has no function nothing"),
        ("linear", "pruned attention wraps models of transformers, not Linear"),
        ("number", "must return a model and the inputs of one sequence, tensors by name as in {'input_ids': ids}, or"),
        ("batch", "a program is for one sequence, the example inputs are 2"),
        ("empty", "the sequence of the example inputs has no tokens"),
        ("long", "the sequence has 65 tokens, attention.max_length of tiny_attention is 64"),
        ("unknown_word", "BertModel cannot run on its example inputs: IndexError"),
        ("unknown_name", "BertModel cannot run on its example inputs: ValueError"),
        ("clip", "the layers of CLIPVisionModel cannot run alone: TypeError: CLIPEncoderLayer.forward() missing"),
        ("large", "hidden states grow beyond fp16: the model's weights are too large"),
    ],
)
def test_a_bad_model(assert_refused, models, function, error):
    assert_refused("encode", f"{models}:{function}", "--arch", "tiny_attention", text=error)


@pytest.mark.parametrize("model", ["mlp", "model.pt2", "minilm:layers=2"])
def test_what_is_no_model(assert_refused, model):
    text = f"cannot tell what model {model!r} is: give minilm or path/to/file.py:function"
    assert_refused("encode", model, "--arch", "tiny_attention", text=text)


def test_an_architecture_without_the_engine(assert_refused, models, tmp_path):
    others = ", ".join(name for name in preset_names() if load(name).attention)
    assert {"tiny_attention", "vcu1525"} <= set(others.split(", "))
    text = f"architecture sat32 has no attention engine: add an `attention:` section, or take one of {others}"
    assert_refused("encode", f"{models}:bert", "--arch", "sat32", text=text)
    arch = arch_file(tmp_path, settings(array__lanes=2, array__cols=8, memory={"data_bits": 128}, attention={}))
    assert_refused("encode", f"{models}:bert", "--arch", arch, text="encoders need array.lanes 1, not 2")


def test_a_text_that_is_too_long(assert_refused):
    text = "the text has 602 tokens, MiniLM takes at most 512"
    assert_refused("encode", "minilm", "--arch", "vcu1525", "--text", "dog " * 600, text=text)


def test_inputs_by_name_are_not_for_other_commands(assert_refused, models):
    text = "must return example inputs as a tensor or a tuple of tensors, not dict"
    assert_refused("simulate", f"{models}:bert", "--arch", "tiny", text=text)
