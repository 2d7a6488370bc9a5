"""Programs on disk: `program.json` (all but bytes), `program.bin` (instructions, constants), `program.lst` (text)."""

import contextlib
import dataclasses
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from hwgen.arch import INSTRUCTION_BYTES, ProgramError, UserError, arch_from_dict
from hwgen.arch.commands import decode
from hwgen.arch.isa import Format
from scheduler.program import Heading, Port, Program, Segment

VERSION = 1
"""Version of the JSON form."""
_STRICT = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True, config=_STRICT)
class _SegmentEntry:
    name: str
    kind: Literal["program", "weights", "indices", "bias", "input", "tensor", "output"]
    address: int
    size: int
    offset: int | None
    """Byte of `program.bin` where its content begins."""


@dataclass(frozen=True, config=_STRICT)
class _PortEntry:
    name: str
    shape: tuple[int, ...]
    address: int
    rows: int
    cols: int
    format: Literal["fp32", "operand"]


@dataclass(frozen=True, config=_STRICT)
class _HeadingEntry:
    position: int
    name: str
    text: str


@dataclass(frozen=True, config=_STRICT)
class _Entry:
    version: Literal[1]
    arch: dict[str, Any]
    instructions: int
    program_address: int
    memory_size: int
    segments: tuple[_SegmentEntry, ...]
    inputs: tuple[_PortEntry, ...]
    outputs: tuple[_PortEntry, ...]
    headings: tuple[_HeadingEntry, ...]
    sha256: str
    """Of `program.bin`, so that files of two programs cannot be mixed up."""


def to_json(program: Program) -> dict[str, Any]:
    """The JSON form of a program; its bytes are those of `to_bytes`."""
    offset, segments = INSTRUCTION_BYTES * len(program.commands), []
    for item in program.segments:
        place = None if item.data is None else offset
        offset += 0 if item.data is None else len(item.data)
        segments.append(
            {"name": item.name, "kind": item.kind, "address": item.address, "size": item.size, "offset": place}
        )
    return {
        "version": VERSION,
        "arch": dataclasses.asdict(program.arch),
        "instructions": len(program.commands),
        "program_address": program.program_address,
        "memory_size": program.memory_size,
        "segments": segments,
        "inputs": [_port_json(port) for port in program.inputs],
        "outputs": [_port_json(port) for port in program.outputs],
        "headings": [dataclasses.asdict(item) for item in program.headings],
        "sha256": hashlib.sha256(to_bytes(program)).hexdigest(),
    }


def to_bytes(program: Program) -> bytes:
    """Instructions, then the content of every segment that has one."""
    return program.encode() + b"".join(item.data for item in program.segments if item.data is not None)


def save(program: Program, folder: str | Path) -> None:
    """Write the three files into `folder`, which is made if need be.

    Each file is written under a temporary name and renamed, the JSON last: if it is there, all is there. Raises
    `UserError` if the folder cannot be written or the disk is full; no partial file is left then.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / "program.bin", to_bytes(program))
        _write(folder / "program.lst", program.listing().encode())
        _write(folder / "program.json", (json.dumps(to_json(program), indent=1) + "\n").encode())
    except OSError as error:
        raise UserError(f"cannot write the program to {folder}: {error.strerror or error}") from None


def load(folder: str | Path) -> Program:
    """Read a program that `save` wrote. Raises `UserError` if files are missing, damaged or do not belong together."""
    folder = Path(folder)
    try:
        text, data = (folder / "program.json").read_bytes(), (folder / "program.bin").read_bytes()
    except OSError as error:
        raise UserError(f"cannot read a program from {folder}: {error.strerror or error}") from None
    try:
        entry = TypeAdapter(_Entry).validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "text"
        raise UserError(f"{folder / 'program.json'}: {place}: {first['msg'].lower()}") from None
    size = INSTRUCTION_BYTES * entry.instructions
    if hashlib.sha256(data).hexdigest() != entry.sha256 or entry.instructions < 0 or size > len(data):
        raise UserError(f"{folder / 'program.bin'} is damaged or belongs to another program")
    try:
        commands = tuple(decode(data[at : at + INSTRUCTION_BYTES]) for at in range(0, size, INSTRUCTION_BYTES))
    except ProgramError as error:
        raise UserError(f"{folder / 'program.bin'}: {error}") from None
    return Program(
        arch=arch_from_dict(entry.arch, where=str(folder / "program.json")),
        commands=commands,
        program_address=entry.program_address,
        segments=tuple(_segment(item, data) for item in entry.segments),
        inputs=tuple(_port(item) for item in entry.inputs),
        outputs=tuple(_port(item) for item in entry.outputs),
        headings=tuple(Heading(item.position, item.name, item.text) for item in entry.headings),
    )


def _port_json(port: Port) -> dict[str, Any]:
    return {**dataclasses.asdict(port), "shape": list(port.shape), "format": port.format.name.lower()}


def _port(item: _PortEntry) -> Port:
    return Port(item.name, item.shape, item.address, item.rows, item.cols, Format[item.format.upper()])


def _segment(item: _SegmentEntry, data: bytes) -> Segment:
    content = None if item.offset is None else data[item.offset : item.offset + item.size]
    return Segment(item.name, item.kind, item.address, item.size, content)


def _write(path: Path, data: bytes) -> None:
    handle, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(partial).chmod(0o644)
        Path(partial).replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            Path(partial).unlink()
        raise
