"""Architecture files: presets, and one clear sentence for everything that can be wrong."""

import dataclasses
import hashlib
import re

import pytest
import yaml

from hwgen.arch import ArchError, arch_from_dict, load, preset_names
from hwgen.arch.attention import AttentionSizes
from hwgen.arch.config import PRESET_FOLDER
from hwgen.arch.digest import canonical_json, hash32

REMOVED = object()
ARRAY_NAMES = (
    "rows, cols, lanes, group_max, act_width, act_buffer, weight_buffer, interleave_max, operand, accumulate, "
    "mul_latency, add_latency, drain"
)
ARCH_NAMES = "name, clock_mhz, array, scratchpads, memory, vector, reducer, control, attention"
ATTENTION_NAMES = ", ".join(item.name for item in dataclasses.fields(AttentionSizes))
NAME_RULE = "lower-case letters, digits and underscores, with a letter first"


def settings(**changes) -> dict:
    """The tiny preset as plain data; `array__rows=3` changes array.rows."""
    data = yaml.safe_load((PRESET_FOLDER / "tiny.yaml").read_text())
    for path, value in changes.items():
        *parts, name = path.split("__")
        part = data
        for item in parts:
            part = part[item]
        if value is REMOVED:
            del part[name]
        else:
            part[name] = value
    return data


def refusal(data) -> str:
    """The sentence with which `data` is refused, without the source that it begins with."""
    with pytest.raises(ArchError) as caught:
        arch_from_dict(data, where="here")
    text = str(caught.value)
    assert text.startswith("here: ")
    assert "\n" not in text
    return text.removeprefix("here: ")


REFUSED = [
    # Unknown and missing settings
    ({"colour": 1}, f"colour is not a known setting; allowed are {ARCH_NAMES}"),
    ({"array__row": 4}, f"array.row is not a known setting; allowed are {ARRAY_NAMES}"),
    ({"array__row": 4, "array__rows": REMOVED}, f"array.row is not a known setting; allowed are {ARRAY_NAMES}"),
    ({"control__depth": 4}, "control.depth is not a known setting; allowed are queue_depth, token_bits"),
    ({"array__rows": REMOVED}, "array.rows is missing and has no default"),
    ({"memory": REMOVED}, "memory is missing and has no default"),
    # Wrong types
    ({"array__rows": "4"}, "array.rows must be a whole number, not '4'"),
    ({"array__rows": 4.0}, "array.rows must be a whole number, not 4.0"),
    ({"array__rows": 4.5}, "array.rows must be a whole number, not 4.5"),
    ({"array__rows": True}, "array.rows must be a whole number, not True"),
    ({"array__rows": None}, "array.rows must be a whole number, not None"),
    ({"clock_mhz": float("nan")}, "clock_mhz must be a whole number, not nan"),
    ({"array": 3}, "array must be a mapping of settings, not 3"),
    ({"array": [1]}, "array must be a mapping of settings, not [1]"),
    ({"control": None}, "control must be a mapping of settings, not None"),
    ({"name": 3}, "name must be text, not 3"),
    # Out of range
    ({"array__rows": 1}, "array.rows must be at least 2, not 1"),
    ({"array__rows": 256}, "array.rows must be at most 128, not 256"),
    ({"array__rows": 10**30}, f"array.rows must be at most 128, not {10**30}"),
    ({"array__cols": 2}, "array.cols must be at least 4, not 2"),
    ({"array__lanes": 3}, "array.lanes must be 1, 2 or 4, not 3"),
    ({"array__operand": "fp8"}, "array.operand must be 'fp16' or 'bf16', not 'fp8'"),
    ({"array__accumulate": "fp16"}, "array.accumulate must be 'fp32', not 'fp16'"),
    ({"array__mul_latency": 0}, "array.mul_latency must be at least 1, not 0"),
    ({"array__add_latency": 9}, "array.add_latency must be at most 8, not 9"),
    ({"array__drain": 3}, "array.drain must be 1 or 2, not 3"),
    ({"scratchpads__act_depth": 8}, "scratchpads.act_depth must be at least 16, not 8"),
    ({"memory__burst_beats": 128}, "memory.burst_beats must be 1, 2, 4, 8, 16, 32 or 64, not 128"),
    ({"memory__address_bits": 49}, "memory.address_bits must be at most 48, not 49"),
    ({"control__queue_depth": 3}, "control.queue_depth must be 2, 4, 8, 16 or 32, not 3"),
    ({"control__token_bits": 9}, "control.token_bits must be at most 8, not 9"),
    ({"array__lanes": True}, "array.lanes must be a whole number, not True"),
    ({"array__lanes": 2.0}, "array.lanes must be a whole number, not 2.0"),
    ({"array__lanes": 1 << 70}, f"array.lanes must be a whole number of at most 64 bits, not {1 << 70}"),
    ({"clock_mhz": 0}, "clock_mhz must be at least 1, not 0"),
    ({"name": "A b"}, f"name must be {NAME_RULE}, not 'A b'"),
    ({"name": ""}, f"name must be {NAME_RULE}, not ''"),
    ({"name": "a\n"}, f"name must be {NAME_RULE}, not 'a\\n'"),
    ({"name": "x" * 33}, "name must be at most 32 characters long, not 'xxxxxxxxxxxx...xxxxxxxxxxxxx'"),
    (
        {"memory": {"data_bits": 128}, "attention": {"colour": 1}},
        f"attention.colour is not a known setting; allowed are {ATTENTION_NAMES}",
    ),
    (
        {"memory": {"data_bits": 128}, "attention": {"max_heads": True}},
        "attention.max_heads must be a whole number, not True",
    ),
    (
        {"memory": {"data_bits": 128}, "attention": {"max_heads": 17}},
        "attention.max_heads must be between 1 and 16, not 17",
    ),
    ({"attention": 3}, "attention must be a mapping of settings, not 3"),
    # Conflicts
    ({"attention": {}}, "attention needs memory.data_bits of at least 128, not 64"),
    (
        {"array__cols": 8, "memory": {"data_bits": 128}, "attention": {"beat_bytes": 32}},
        "attention.beat_bytes (32) must be memory.data_bits / 8 (16)",
    ),
    (
        {"memory": {"data_bits": 128}, "attention": {"multipliers": 128, "softmax_lanes": 4}},
        "attention.softmax_lanes must be at least multipliers / 16 = 8",
    ),
    ({"array__rows": 6}, "array.rows must be a power of two, not 6"),
    ({"array__cols": 12}, "array.cols must be a power of two, not 12"),
    ({"scratchpads__wgt_depth": 100}, "scratchpads.wgt_depth must be a power of two, not 100"),
    ({"array__lanes": 4, "array__act_width": 2}, "array.act_width (2) must be at least lanes (4)"),
    (
        {"memory__data_bits": 128},
        "memory.data_bits (128) must be 16 x array.cols (64): one beat is one operand for every column",
    ),
]


@pytest.mark.parametrize(("changes", "sentence"), REFUSED, ids=lambda part: part if isinstance(part, str) else None)
def test_bad_settings_are_refused(changes, sentence):
    assert refusal(settings(**changes)) == sentence


@pytest.mark.parametrize("data", [None, 3, "tiny", [1], 0.5])
def test_only_mappings_are_architectures(data):
    assert refusal(data) == f"an architecture must be a mapping of settings, not {data!r}"


def test_values_that_are_not_plain_are_refused():
    loop: dict = {}
    loop["array"] = loop
    for value in (loop, {"name": b"x"}, {"name": {1, 2}}):
        assert refusal(value) == "only plain numbers, text and mappings are allowed"


BAD_FILES = [
    ("a: [", r"{path} line 1: not valid YAML: expected the node content, but found '<stream end>'"),
    ("name: x\n\t", r"{path} line 2: not valid YAML: found character '\\t' that cannot start any token"),
    ("a: b: c", r"{path} line 1: not valid YAML: mapping values are not allowed here"),
    (
        "a: !!python/object:os.system x",
        r"{path} line 1: not valid YAML: could not determine a constructor for the tag .*",
    ),
    ("a: 2020-13-01", r"{path}: not valid YAML: month must be in 1\.\.12"),
    ("[" * 5000, r"{path}: not valid YAML: it is nested too deeply"),
    ("a: \x00", r"{path}: not valid YAML: special characters are not allowed"),
    ("", r"bad\.yaml: an architecture must be a mapping of settings, not None"),
    ("a: &b {c: *b}", r"bad\.yaml: only plain numbers, text and mappings are allowed"),
]


@pytest.mark.parametrize(("text", "sentence"), BAD_FILES, ids=range(len(BAD_FILES)))
def test_malformed_files_are_refused(tmp_path, text, sentence):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ArchError, match="^" + sentence.format(path=re.escape(str(path))) + "$"):
        load(path)


def test_unreadable_files_are_refused(tmp_path):
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ArchError, match=r"^cannot read architecture .*binary\.yaml: it is not UTF-8 text$"):
        load(binary)
    with pytest.raises(ArchError, match=r"^cannot read architecture '.*gone\.yml': No such file or directory$"):
        load(tmp_path / "gone.yml")
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(ArchError, match=r"^cannot read architecture '.*folder\.yaml': Is a directory$"):
        load(tmp_path / "folder.yaml")
    with pytest.raises(ArchError, match=r"^cannot read architecture '.*': embedded null byte$"):
        load("\0.yaml")


def test_unknown_preset_names_the_known_ones():
    names = ", ".join(preset_names())
    with pytest.raises(ArchError, match=f"^unknown architecture 'huge': give a .yaml file or one of {names}$"):
        load("huge")


@pytest.mark.parametrize("name", preset_names())
def test_presets_load_and_hold_together(name):
    arch = load(name)
    assert arch.name == name
    assert arch == load(PRESET_FOLDER / f"{name}.yaml")
    assert arch.beat_bytes == 2 * arch.array.cols
    assert arch.macs == arch.array.rows * arch.array.cols * arch.array.lanes
    assert 1 << arch.row_bits == arch.array.rows
    assert arch.array.chain_latency == arch.array.lanes * arch.array.add_latency


def test_attention_takes_its_beats_from_the_memory():
    data = settings(array__cols=8, memory={"data_bits": 128})
    assert arch_from_dict(data).attention is None
    assert arch_from_dict(data | {"attention": None}) == arch_from_dict(data)
    made = arch_from_dict(data | {"attention": {"max_heads": 12}})
    assert dataclasses.asdict(made.attention) == dataclasses.asdict(AttentionSizes(max_heads=12, beat_bytes=16))
    assert arch_from_dict(data | {"attention": {"max_heads": 12, "beat_bytes": 16}}) == made
    assert len({hash32(made), hash32(arch_from_dict(data)), hash32(arch_from_dict(data | {"attention": {}}))}) == 3


def test_file_and_defaults(tmp_path):
    path = tmp_path / "mine.yml"
    data = settings(name="mine", control=REMOVED)
    path.write_text(yaml.safe_dump(data))
    assert dataclasses.asdict(load(path).control) == {"queue_depth": 8, "token_bits": 4}


ANOTHER = {
    "name": "other",
    "clock_mhz": 100,
    "array__rows": 8,
    "array__lanes": 2,
    "array__group_max": 8,
    "array__act_width": 2,
    "array__act_buffer": 32,
    "array__weight_buffer": 8,
    "array__interleave_max": 4,
    "array__operand": "bf16",
    "array__mul_latency": 3,
    "array__add_latency": 5,
    "array__drain": 2,
    "vector": {"words": 2},
    "scratchpads__act_depth": 512,
    "scratchpads__wgt_depth": 512,
    "scratchpads__acc_depth": 512,
    "scratchpads__acc_banks": 2,
    "memory__address_bits": 32,
    "memory__burst_beats": 8,
    "memory__outstanding": 4,
    "control__queue_depth": 4,
    "control__token_bits": 5,
}


def test_hash_tells_architectures_apart():
    hashes = [hash32(arch_from_dict(settings(**{path: value}))) for path, value in ANOTHER.items()]
    hashes.append(hash32(load("tiny")))
    assert len(set(hashes)) == len(ANOTHER) + 1
    assert all(0 <= value < 1 << 32 for value in hashes)


def test_hash_is_that_of_text_anyone_can_write():
    text = (
        '{"array":{"accumulate":"fp32","act_buffer":64,"act_width":4,"add_latency":4,"cols":4,"drain":1,"group_max":16,'
        '"interleave_max":16,"lanes":1,"mul_latency":2,"operand":"fp16","rows":4,"weight_buffer":32},"clock_mhz":200,'
        '"control":{"queue_depth":8,"token_bits":4},"memory":{"address_bits":40,"burst_beats":16,"data_bits":64,'
        '"outstanding":8,"ports":1},"name":"tiny","reducer":{"style":"serial"},"scratchpads":{"acc_banks":4,"acc_depth":1024,'
        '"act_depth":256,"wgt_depth":2048},"vector":{"add_latency":4,"curve_entries":64,"mul_latency":3,"words":1}}'
    )
    assert canonical_json(load("tiny")) == text
    assert f"{hash32(load('tiny')):08x}" == hashlib.sha256(text.encode()).hexdigest()[:8]


def test_setting_given_twice(tmp_path):
    path = tmp_path / "twice.yaml"
    path.write_text("name: twice\nclock_mhz: 100\nclock_mhz: 200\n")
    with pytest.raises(ArchError, match=r"twice\.yaml line 2: not valid YAML: clock_mhz is given twice$"):
        load(path)
