# amaranth: UnusedElaboratable=no
"""The cycle model's C++ as a library, and what it must know of instructions, architecture and components.

The numbers of `Sizes` come from the architecture and from the components that decide them; none is written twice.
"""

import ctypes
import enum
from functools import cache
from pathlib import Path

from hwgen.arch import Arch
from hwgen.arch.isa import READS_X, READS_Z, TABLE, Dataflow, Engine, Format, Opcode, Operation, Target
from hwgen.arch.registers import TensorState
from hwgen.arch.services import Job as AttentionJob
from hwgen.array.mesh import Mesh
from hwgen.array.row import RowHead
from hwgen.array.sequencer import TILE_QUEUE
from hwgen.array.words import ElementShape
from hwgen.control.fetch import Fetch
from hwgen.control.queue import EngineQueue
from hwgen.memory.bursts import PAGE_BYTES
from hwgen.memory.path import OUTPUT_BEATS
from hwgen.memory.reader import StoreReader
from hwgen.memory.store_setup import StoreSetup
from hwgen.memory.words import BUFFER_BEATS
from hwgen.reducer.column import STYLES
from hwgen.reducer.packer import SLOTS
from hwgen.vector.engine import VectorEngine
from sim.attention import library as attention_library
from sim.attention import services_library
from sim.design import whole_text
from sim.device import Settings
from sim.verilate import build_plain

SOURCE = Path(__file__).parent / "model" / "model.cpp"
_CODES: tuple[type[enum.IntEnum], ...] = (Engine, Target, Dataflow, Format, Operation, TensorState, AttentionJob)


class Sizes(ctypes.Structure):
    """`Sizes` of `model/base.h`: same fields, same order."""

    _fields_ = [
        (name, ctypes.c_uint32)
        for name in (
            *("rows", "lanes", "cols", "act_width", "act_buffer", "interleave_max"),
            *("chain", "read_stage", "write_stage", "head_latency", "south_latency", "tile_queue"),
            *(
                "acc_depth",
                "acc_banks",
                "acc_halves",
                "drain",
                "beat_bytes",
                "burst_beats",
                "page_bytes",
                "outstanding",
            ),
            *("queue_depth", "in_flight", "fetch_burst", "store_latency", "store_buffer", "store_output"),
            *("packed_latency", "packed_slots", "rank_base", "rank_per_slot", "vector_latency", "vector_words"),
        )
    ]


class Job(ctypes.Structure):
    """`Job` of `model/machine.h`: same fields, same order."""

    _fields_ = [
        ("program", ctypes.c_char_p),
        *((name, ctypes.c_uint64) for name in ("address", "count", "first_cycle", "event_limit", "state_events")),
        ("attention_jobs", ctypes.c_void_p),
        ("attention_count", ctypes.c_uint64),
        *((name, ctypes.c_void_p) for name in ("rows", "places", "passes")),
        *((name, ctypes.c_void_p) for name in ("services", "service_items", "service_passes")),
    ]


@cache
def sizes(arch: Arch) -> Sizes:
    """What the model must know of an architecture."""
    shape, array, rank = ElementShape.of(arch), arch.array, STYLES[arch.reducer.style][0]
    return Sizes(
        **{name: getattr(array, name) for name in ("rows", "cols", "lanes", "act_width", "act_buffer")},
        interleave_max=array.interleave_max,
        chain=shape.chain_latency,
        read_stage=shape.read_stage,
        write_stage=shape.write_stage,
        head_latency=RowHead.LATENCY,
        south_latency=Mesh(arch=arch).south_latency,
        tile_queue=TILE_QUEUE,
        acc_depth=arch.scratchpads.acc_depth,
        acc_banks=arch.scratchpads.acc_banks,
        acc_halves=arch.acc_halves,
        drain=array.drain,
        beat_bytes=arch.beat_bytes,
        burst_beats=arch.memory.burst_beats,
        page_bytes=PAGE_BYTES,
        outstanding=arch.memory.outstanding,
        queue_depth=arch.control.queue_depth,
        in_flight=EngineQueue.IN_FLIGHT,
        fetch_burst=Fetch(arch=arch).burst,
        store_latency=StoreReader.LATENCY,
        store_buffer=BUFFER_BEATS,
        store_output=OUTPUT_BEATS,
        packed_latency=StoreSetup(arch).packed_latency,
        packed_slots=SLOTS,
        rank_base=rank.latency(0),
        rank_per_slot=rank.latency(1) - rank.latency(0),
        vector_latency=VectorEngine(arch).latency,
        vector_words=arch.vector.words,
    )


class AttendSizes(ctypes.Structure):
    """`AttendSizes` of `model/attend.h`."""

    _fields_ = [("attention", attention_library.Sizes), ("services", services_library.Sizes)]


def attend_sizes(arch: Arch) -> AttendSizes:
    """What it must know of the attention engine; zeros if there is none."""
    if not arch.attention:
        return AttendSizes()
    models = attention_library.model_sizes, services_library.services_sizes
    return AttendSizes(*(sizes_of(arch.attention, arch.vector.mul_latency) for sizes_of in models))


def isa_header() -> str:
    """C++ of the instruction table: places of fields, codes by name, what operations read, the engine of an opcode."""
    lines = ["#pragma once", "#include <cstdint>", "namespace isa {", "struct Field { uint16_t offset, width; };"]
    for row in TABLE.values():
        fields = ", ".join(f"{item.name}{{{row.offsets[item.name]}, {item.width}}}" for item in row.operands)
        lines.append(f"namespace {row.opcode.name.capitalize()} {{ constexpr Field {fields}; }}")
    for codes in _CODES:
        names = ", ".join(f"{item.name} = {item.value}" for item in codes)
        lines.append(f"namespace {codes.__name__} {{ enum : uint32_t {{ {names} }}; }}")
    sources = [1 + (code not in READS_X) + (code in READS_Z) for code in Operation]
    engines = [TABLE[Opcode(code)].engine if code in TABLE else -1 for code in range(max(TABLE) + 1)]
    for name, values in (("SOURCES_READ", sources), ("ENGINE_OF", engines)):
        lines.append(f"constexpr int {name}[] = {{{', '.join(str(int(value)) for value in values)}}};")
    return "\n".join([*lines, "}", ""])


_U64, _INT, _VOID = ctypes.c_uint64, ctypes.c_int, ctypes.c_void_p
_SIGNATURES = {
    "new": (_VOID, ctypes.POINTER(Sizes), ctypes.POINTER(AttendSizes), _INT),
    "start": (None, _VOID, ctypes.POINTER(Settings), ctypes.POINTER(Job)),
    "free": (None, _VOID),
    "run": (_INT, _VOID, _U64),
    "now": (_U64, _VOID),
    "counters": (None, _VOID, _VOID),
    "states": (None, _VOID, _VOID),
    "events": (_U64, _VOID, ctypes.POINTER(_VOID), ctypes.POINTER(_U64)),
    "queues": (None, _VOID, _VOID),
}


@cache
def library() -> ctypes.CDLL:
    """Compile the model, or find it compiled, and declare its functions."""
    text = services_library.with_headers(whole_text(SOURCE)).replace('#include "isa.h"', isa_header())
    made = ctypes.CDLL(str(build_plain("cycles", text)))
    for name, (result, *arguments) in _SIGNATURES.items():
        function = getattr(made, f"model_{name}")
        function.restype, function.argtypes = result, arguments
    structures = (Sizes, AttendSizes, Job)
    made.model_bytes.restype = ctypes.c_uint32
    if [made.model_bytes(which) for which in range(len(structures))] != [*map(ctypes.sizeof, structures)]:
        raise AssertionError("structures of sim/model and of sim/cycle_library.py differ")
    return made
