"""The architecture description: every size, format and latency that hardware, golden model and scheduler share."""

import dataclasses
import json
import reprlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from math import ceil, log2
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from hwgen.arch.attention import AttentionSizes
from hwgen.arch.errors import ArchError

_STRICT = ConfigDict(extra="forbid", strict=True)
INDEX_BITS = 4
"""Bits of one stored N:M index; groups have at most 2**INDEX_BITS values."""
INSTRUCTION_BYTES = 32


def _power_of_two(value: int) -> bool:
    return value & (value - 1) == 0


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Array:
    """The tensor engine: `rows` x `cols` processing elements of `lanes` multipliers each."""

    rows: Annotated[int, Field(ge=2, le=128)]
    cols: Annotated[int, Field(ge=4, le=64)]
    lanes: Literal[1, 2, 4] = 1
    group_max: Literal[4, 8, 16] = 16
    """Largest N:M group (M) that a processing element holds."""
    act_width: Literal[1, 2, 4] = 4
    """Values a row feeder hands to its row in one cycle."""
    act_buffer: Literal[32, 64, 128] = 64
    """Activation ring buffer of one processing element, in values."""
    weight_buffer: Literal[8, 16, 32, 64] = 32
    """Weight-stationary slots of one processing element, per page (there are two pages)."""
    interleave_max: Literal[4, 8, 16] = 16
    """Accumulators of one processing element."""
    operand: Literal["fp16", "bf16"] = "fp16"
    accumulate: Literal["fp32"] = "fp32"
    mul_latency: Annotated[int, Field(ge=1, le=4)] = 2
    add_latency: Annotated[int, Field(ge=1, le=8)] = 4
    drain: Literal[1, 2] = 1
    """Result words that leave the array in one cycle, output stationary. Two need a second link between the rows, and
    acc banks in halves (`Arch.acc_halves`)."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("rows", "cols"):
            if not _power_of_two(getattr(self, name)):
                raise ValueError(f"{name} must be a power of two, not {getattr(self, name)}")
        if self.act_buffer < 2 * self.group_max:
            raise ValueError(
                f"act_buffer ({self.act_buffer}) must hold two groups of group_max ({self.group_max}) values"
            )
        if self.act_width < self.lanes:
            raise ValueError(f"act_width ({self.act_width}) must be at least lanes ({self.lanes})")
        return self

    @property
    def chain_latency(self) -> int:
        """Cycles from an addend entering the adder chain to the sum that may take the next one."""
        return self.lanes * self.add_latency


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Scratchpads:
    """On-chip memories, in words. An act or wgt word is `cols` operands, an acc word `cols` FP32 values."""

    act_depth: Annotated[int, Field(ge=16, le=65536)]
    """Words of one activation bank; there is a bank for every array row."""
    wgt_depth: Annotated[int, Field(ge=64, le=1 << 20)]
    """Weight words (each with an index word); a word is `lanes` x `cols` operands."""
    acc_depth: Annotated[int, Field(ge=64, le=1 << 20)]
    """Accumulator words over all banks."""
    acc_banks: Literal[2, 4, 8, 16] = 4
    """Single-read single-write banks of the accumulator scratchpad; the top address bits choose one. Each may be
    two memories (`Arch.acc_halves`)."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("act_depth", "wgt_depth", "acc_depth"):
            if not _power_of_two(getattr(self, name)):
                raise ValueError(f"{name} must be a power of two, not {getattr(self, name)}")
        return self


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Vector:
    """The vector engine (WUVE): `words` x `cols` lanes of FP32 arithmetic."""

    mul_latency: Annotated[int, Field(ge=1, le=6)] = 3
    add_latency: Annotated[int, Field(ge=1, le=8)] = 4
    curve_entries: Literal[0, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384] = 0
    """Entries, 64 bits each, of every lane's table of piecewise linear functions; 0: there is none."""
    words: Literal[1, 2] = 1
    """Words of a row that are worked on in one cycle. Two need acc banks in halves (`Arch.acc_halves`)."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Reducer:
    """The N:M reducer (SORE) on the way of STORE PACKED."""

    style: Literal["serial", "parallel"] = "serial"
    """serial: an insertion sorter, whose cells a value passes one by one: N cycles until a group is done; parallel: a
    value is compared with its whole group at once. Both take a value of every column in a cycle."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Memory:
    """The AXI4 ports to external memory."""

    data_bits: Literal[64, 128, 256, 512, 1024]
    address_bits: Annotated[int, Field(ge=24, le=48)] = 40
    burst_beats: Literal[1, 2, 4, 8, 16, 32, 64] = 16
    """Longest burst; bursts also never cross a 4 KiB boundary."""
    outstanding: Literal[1, 2, 4, 8, 16, 32] = 16
    """Read bursts (and write bursts) in flight on a port."""
    ports: Literal[1, 2] = 1
    """With 2, accumulator words are also loaded by an engine with a read-only port of its own (FILL)."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Control:
    """Command queues and dependency tokens."""

    queue_depth: Literal[2, 4, 8, 16, 32] = 8
    """Commands waiting in front of each engine."""
    token_bits: Annotated[int, Field(ge=2, le=8)] = 4
    """Width of a token counter; more than 2**token_bits - 1 pending tokens is an error."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Arch:
    """One accelerator. Hardware, golden machine, scheduler and cycle model all take this object.

    Raises `ArchError` (through `load`) when a value is unknown, of the wrong type, out of range or in conflict.
    """

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=32)]
    clock_mhz: Annotated[int, Field(ge=1, le=1000)] = 200
    array: Array
    scratchpads: Scratchpads
    memory: Memory
    vector: Vector = Field(default_factory=Vector)
    reducer: Reducer = Field(default_factory=Reducer)
    control: Control = Field(default_factory=Control)
    attention: AttentionSizes | None = None
    """The attention engine (ATTEND); None: there is none. Files leave out its `beat_bytes`, which is that of memory."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.memory.data_bits != 16 * self.array.cols:
            raise ValueError(
                f"memory.data_bits ({self.memory.data_bits}) must be 16 x array.cols "
                f"({16 * self.array.cols}): one beat is one operand for every column"
            )
        if self.attention and self.attention.beat_bytes != self.beat_bytes:
            raise ValueError(
                f"attention.beat_bytes ({self.attention.beat_bytes}) must be memory.data_bits / 8 ({self.beat_bytes})"
            )
        return self

    @property
    def beat_bytes(self) -> int:
        """Bytes of one memory beat; equal to the bytes of `cols` operands."""
        return self.memory.data_bits // 8

    @property
    def macs(self) -> int:
        """Multipliers in the array."""
        return self.array.rows * self.array.cols * self.array.lanes

    @cached_property
    def row_bits(self) -> int:
        """Bits that number an array row."""
        return max(1, ceil(log2(self.array.rows)))

    @cached_property
    def acc_halves(self) -> int:
        """Memories of an acc bank: 2, for even and odd addresses, if an engine moves two words a cycle."""
        return max(self.array.drain, self.vector.words)


def arch_from_dict(data: Any, *, where: str = "architecture") -> Arch:
    """Validate plain data as an `Arch`; `where` names the source in the error."""
    if not isinstance(data, dict):
        raise ArchError(f"{where}: an architecture must be a mapping of settings, not {reprlib.repr(data)}")
    data = _with_beat_bytes(data, where)
    try:
        # Through JSON, because pydantic's strict mode takes mappings for dataclasses only from there.
        arch = TypeAdapter(Arch).validate_json(json.dumps(data))
    except ValidationError as error:
        raise ArchError(f"{where}: {_sentence(error)}") from None
    except (TypeError, ValueError, RecursionError):
        raise ArchError(f"{where}: only plain numbers, text and mappings are allowed") from None
    for name, value in _leaves(data):
        if isinstance(value, bool | float):  # pydantic takes True for a literal 1, and 2.0 for 2
            raise ArchError(f"{where}: {name} must be a whole number, not {value!r}")
    return arch


def _leaves(data: dict, path: str = "") -> Iterator[tuple[str, Any]]:
    """Settings of nested mappings by their dotted names."""
    for name, value in data.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def _with_beat_bytes(data: dict, where: str) -> dict:
    """`data` with the beat size of the memory in its attention section, if that doesn't give one."""
    attention, memory = data.get("attention"), data.get("memory")
    if not isinstance(attention, dict) or not isinstance(memory, dict) or not isinstance(memory.get("data_bits"), int):
        return data
    if memory["data_bits"] == 64:
        raise ArchError(f"{where}: attention needs memory.data_bits of at least 128, not 64")
    return {**data, "attention": {"beat_bytes": memory["data_bits"] // 8, **attention}}


_UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")
_RULES = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a whole number of at most 64 bits",
    "string_type": "text",
    "dataclass_type": "a mapping of settings",
    "dataclass_exact_type": "a mapping of settings",
    "literal_error": "{expected}",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
    "string_too_long": "at most {max_length} characters long",
    "string_pattern_mismatch": "lower-case letters, digits and underscores, with a letter first",
}
"""What a setting must be, for each kind of error that pydantic finds in an `Arch`."""


def _sentence(error: ValidationError) -> str:
    """Say which setting is wrong and what is allowed; a misspelt name goes before the setting that it leaves out."""
    first = min(error.errors(), key=lambda item: item["type"] not in _UNKNOWN)
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] in _UNKNOWN:
        return f"{path} is not a known setting; allowed are {', '.join(_names(first['loc'][:-1]))}"
    if first["type"] in ("missing", "missing_argument"):
        return f"{path} is missing and has no default"
    if first["type"] == "value_error":
        message = first["msg"].removeprefix("Value error, ")
        return message if path and message.startswith(f"{path}.") else ".".join(filter(None, (path, message)))
    rule = _RULES.get(first["type"], first["msg"]).format_map(first.get("ctx", {}))
    return f"{path} must be {rule}, not {reprlib.repr(first['input'])}"


def _names(path: Sequence[int | str]) -> list[str]:
    """Settings of the part of an architecture at `path`."""
    part: type = Arch
    for name in path:
        kind = next(item.type for item in dataclasses.fields(part) if item.name == name)
        part = next((item for item in get_args(kind) if dataclasses.is_dataclass(item)), kind)
    return [item.name for item in dataclasses.fields(part)]


PRESET_FOLDER = Path(__file__).parent / "presets"


def preset_names() -> list[str]:
    """Names that `load` accepts without a file."""
    return sorted(path.stem for path in PRESET_FOLDER.glob("*.yaml"))


class _Loader(yaml.SafeLoader):
    """The safe loader, but a setting given twice is an error instead of the last one winning."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for key, _ in node.value:
            if keys.count(key.value) > 1:
                raise yaml.MarkedYAMLError(problem=f"{key.value} is given twice", problem_mark=key.start_mark)
        return super().construct_mapping(node, deep)


def load(source: str | Path) -> Arch:
    """Read an architecture: the name of a preset, or the path of a YAML file (`*.yaml`, `*.yml`)."""
    path = Path(source)
    if path.suffix not in (".yaml", ".yml"):
        if str(source) not in preset_names():
            raise ArchError(
                f"unknown architecture {str(source)!r}: give a .yaml file or one of {', '.join(preset_names())}"
            )
        path = PRESET_FOLDER / f"{source}.yaml"
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ArchError(f"cannot read architecture {path}: it is not UTF-8 text") from None
    except (OSError, ValueError) as error:
        raise ArchError(f"cannot read architecture {str(path)!r}: {getattr(error, 'strerror', error)}") from None
    try:
        data = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", "it cannot be read")
        raise ArchError(f"{path}{line}: not valid YAML: {problem}") from None
    except RecursionError:
        raise ArchError(f"{path}: not valid YAML: it is nested too deeply") from None
    except ValueError as error:
        raise ArchError(f"{path}: not valid YAML: {error}") from None
    return arch_from_dict(data, where=str(path.name))
