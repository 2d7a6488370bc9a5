"""The command `decode` as a user meets it: what is printed and written, exit codes, refusals."""

import json

import numpy as np
import pytest

from sim.attention import checked, decode_job
from tests.sim.attention.encode_support import DECODERS, MODELS, models_file

GOLDEN = ("--arch", "tiny_attention", "--backend", "golden")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return models_file(tmp_path_factory.mktemp("models"), DECODERS)


@pytest.mark.verilator
def test_decode_prints_tables_and_writes_its_files(sparseloom, tmp_path):
    arguments = ("--layers", 2, "--tokens", 0.5, "--recent", 2, "--heads", 2, "--bits", "6+4", "--new-tokens", 2)
    result = sparseloom(
        "decode", "gpt2_random", "--arch", "tiny_attention", "--text", "a dog", *arguments, "-o", tmp_path / "out"
    )
    assert result.code == 0, result.err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    words = report["runs"][0]["comparison"]["words"]
    assert report["comparison"] == {"words": 3 * words, "different": 0, "first": "", "equal": True}
    assert f"all {words:,} words of memory equal after each of 3 runs" in result.out
    assert "as many cycles as RTL in each run" in result.out
    assert "'a dog'" in result.out
    assert report["text"] in result.out
    assert all(f"{run['cycles']:,}" in result.out for run in report["runs"])
    names = {"prompt.lst", "prompt_timeline.json", "token.lst", "token_timeline.json"}
    names |= {"tokens.md", "outputs.npz", "report.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names


def test_without_rtl_it_says_so(sparseloom, models):
    result = sparseloom("decode", f"{models}:gpt2", *GOLDEN, "--new-tokens", 1)
    assert result.code == 0, result.err
    assert "RTL has not run" in result.out
    assert "not compared" in result.out
    assert "3 4 5 6 7 8 9 10 11" in result.out


@pytest.fixture
def wrong_key(monkeypatch):
    """RTL finds one wrong bit in a cached key when it runs the first token."""
    compiled, runs = [], []
    compile_decoder, run_on = decode_job.compile_decoder, checked.run_on

    def compile_and_note(*arguments, **options):
        compiled.append(compile_decoder(*arguments, **options))
        return compiled[-1]

    def run_with_fault(device, image, **options):
        runs.append(image.copy())
        if len(runs) == 2:
            keys, _ = compiled[0].slots.cache.of(0)
            runs[-1][keys.address] ^= np.uint8(1)
        return run_on(device, runs[-1], **options)

    monkeypatch.setattr(decode_job, "compile_decoder", compile_and_note)
    monkeypatch.setattr(checked, "run_on", run_with_fault)


@pytest.mark.verilator
@pytest.mark.usefixtures("wrong_key")
def test_a_wrong_word_of_the_cache_is_exit_code_1(sparseloom, models):
    """It stops there: later tokens would say nothing."""
    arguments = ("--arch", "tiny_attention", "--new-tokens", 3)
    result = sparseloom("decode", f"{models}:gpt2", *arguments, "--json")
    assert result.code == 1
    report = json.loads(result.out)
    assert [run["comparison"]["different"] > 0 for run in report["runs"]] == [False, True]
    assert not report["comparison"]["equal"]


@pytest.mark.verilator
@pytest.mark.usefixtures("wrong_key")
def test_a_difference_is_told(sparseloom, models):
    result = sparseloom("decode", f"{models}:gpt2", "--arch", "tiny_attention", "--new-tokens", 1)
    assert result.code == 1
    assert "words differ after the run of position 9, first at 0x" in " ".join(result.out.split())


# One sentence and exit code 2.


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--new-tokens", 0), "--new-tokens must be 1 or more, not 0"),
        (("--new-tokens", -3), "--new-tokens must be 1 or more, not -3"),
        (("--new-tokens", 72), "a prompt of 9 tokens and 72 new ones are 81, GPT2Model has positions for 80"),
        (("--new-tokens", 56), "a layer holds 65 tokens, attention.max_length of tiny_attention is 64"),
        (("--tokens", 0), "--tokens must be above 0 and at most 1, not 0.0"),
        (("--heads", 3), "--heads must be 1 to 2, as many as the model has, or a ratio, not 3"),
        (("--recent", 0), "recent must be 1 or more, not 0: the token being decoded needs its own key"),
        (("--forgetting", 0.3), "forgetting must be a multiple of 1/256 in (0, 1], not 0.3"),
        (("--bits", "5+4"), "bits must be split as one of 4+4, 6+4, 8+4, 10+4, 12+4, not 5+4"),
        (("--threshold", 0.1), "--threshold says when LSBs are read: give --bits MSB+LSB, such as 6+4"),
        (("--sparsity", "5:4"), "a sparsity pattern N:M needs 1 <= N <= M, not 5:4"),
        (("--backend", "model"), "backend must be one of rtl, golden, not 'model'"),
        (("--layers", 3), "the model has 2 layers: 1 to 2 of them can run, not 3"),
        (("--layers", 1, "--tokens", 0.5), "--tokens below 1 needs 2 layers or more: before layer 0 has run no score"),
        (("--text", "a dog"), "--text is for gpt2_random; other models bring their example inputs"),
        (("--stalls", 1.5), "memory stalls must be in 0..0.95, not 1.5"),
        (("--arch", "sat32"), "architecture sat32 has no attention engine"),
    ],
)
def test_a_bad_option(assert_refused, models, arguments, error):
    assert_refused("decode", f"{models}:gpt2", "--arch", "tiny_attention", *arguments, text=error)


@pytest.mark.parametrize(
    ("function", "error"),
    [
        ("nothing", "has no function nothing"),
        ("empty", "the prompt has no tokens"),
        ("masked", "the prompt has no tokens"),
        ("batch", "a program is for one sequence, the example inputs are 2"),
        ("unknown_word", "GPT2Model cannot run on its example inputs: IndexError"),
        ("embedded", "the inputs of a decoder are input_ids, perhaps with an attention_mask, not inputs_embeds"),
        (
            "placed",
            "the inputs of a decoder are input_ids, perhaps with an attention_mask, not input_ids, position_ids",
        ),
        ("classifier", "GPT2ForTokenClassification gives no score for each of its 60 words: decode takes models with"),
        ("large", "hidden states grow beyond fp16: the model's weights are too large"),
    ],
)
def test_a_bad_model(assert_refused, models, function, error):
    assert_refused("decode", f"{models}:{function}", "--arch", "tiny_attention", text=error)


@pytest.mark.parametrize(("function", "kind"), [("bert", "BertModel"), ("vit", "ViTModel")])
def test_an_encoder(assert_refused, tmp_path, function, kind):
    text = f"{kind} is an encoder, which has no next token: `sparseloom encode` runs it"
    assert_refused("decode", f"{models_file(tmp_path, MODELS)}:{function}", *GOLDEN, text=text)


def test_what_is_no_model(assert_refused):
    text = "cannot tell what model 'minilm' is: give gpt2_random or path/to/file.py:function"
    assert_refused("decode", "minilm", *GOLDEN, text=text)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "the prompt has no tokens"),
        ("é", "gpt2_random reads printable ASCII characters, not 'é'"),
        ("a\n", "gpt2_random reads printable ASCII characters, not '\\n'"),
        ("a" * 61, "a prompt of 61 tokens and 4 new ones are 65, GPT2LMHeadModel has positions for 64"),
    ],
)
def test_a_bad_text(assert_refused, text, error):
    assert_refused("decode", "gpt2_random", *GOLDEN, "--text", text, text=error)


def test_an_unknown_option_is_named(sparseloom):
    result = sparseloom("decode", "gpt2_random", *GOLDEN, "--count", 3)
    assert result.code == 2
    assert "No such option: --count" in result.err
