# amaranth: UnusedElaboratable=no
"""The attention core's cycle model as a library: its C++, and what it must know of descriptors, sizes and components.

The numbers of `Sizes` come from the sizes of the engine and from the components that decide them.
"""

import ctypes
from functools import cache
from pathlib import Path

from hwgen.arch.attention import (
    JOB,
    JOB_BYTES,
    KEEP_FRACTION,
    LOW_BITS,
    PLANE_BITS,
    QUERY_BITS,
    RECORD_BYTES,
    AttentionSizes,
    KeyMode,
    ValueMode,
)
from hwgen.attention import fetch, key_side, passes, refine_stage, results, rows, values, writer
from hwgen.attention.importance import Importance
from hwgen.attention.output import Output
from hwgen.attention.products import Products
from hwgen.attention.softmax import Softmax
from hwgen.attention.tiles import RunningRow
from hwgen.attention.weighted import WeightedSum
from hwgen.pruning.eliminate import eliminator_latency
from hwgen.pruning.radix_select import DECIDE, candidate_gap
from sim.design import whole_text
from sim.verilate import build_plain

SOURCE = Path(__file__).parents[1] / "model" / "attention" / "attention.cpp"


class Sizes(ctypes.Structure):
    """`Sizes` of `model/attention/base.h`: same fields, same order."""

    _fields_ = [
        (name, ctypes.c_uint32)
        for name in (
            *("multipliers", "beat_bytes", "softmax_lanes", "selection_width", "output_lanes", "max_length"),
            *("buffer_words", "slots", "reads_in_flight", "selectors"),
            *("products_latency", "old_latency", "softmax_latency", "running_latency", "weighted_latency"),
            *("rescale_turns", "output_latency"),
            *("importance_latency", "decide", "candidate_gap", "routing", "refine_routing"),
            *("passes_ahead", "spans_ahead", "loads", "refine_indices", "value_commands", "value_indices"),
            "value_marks",
            *("reader_depth", "select_commands", "write_commands", "outputs", "write_requests", "owners", "page_bytes"),
        )
    ]


class MemorySettings(ctypes.Structure):
    """`MemorySettings` of `model/attention/memory.h`."""

    _fields_ = [("latency", ctypes.c_uint32), ("stall_cycles", ctypes.c_uint32), ("stalls", ctypes.c_void_p)]


class Job(ctypes.Structure):
    """`Job` of `model/attention/core.h`."""

    _fields_ = [(name, ctypes.c_uint64) for name in (*(item.name for item in JOB), "alive", "first_row")]


class Row(ctypes.Structure):
    """`RowFacts` of `model/attention/base.h`."""

    _fields_ = [
        (name, ctypes.c_uint32)
        for name in (
            "seen",
            "low",
            "kept",
            "kept_count",
            "passes",
            "passes_count",
            "picked",
            "picked_count",
            "keys",
            "grown",
        )
    ]


class Counters(ctypes.Structure):
    """`Counters` of `model/attention/core.h`."""

    _fields_ = [(name, ctypes.c_uint64) for name in ("begins", "cycles", "products_busy", "read_beats", "write_beats")]


@cache
def model_sizes(sizes: AttentionSizes, mul_latency: int = 3) -> Sizes:
    """What the model must know of an engine; `mul_latency`: registers of the multipliers of the scaling."""
    width = sizes.selection_width
    return Sizes(
        **{name: getattr(sizes, name) for name in ("multipliers", "beat_bytes", "softmax_lanes", "selection_width")},
        **{name: getattr(sizes, name) for name in ("output_lanes", "max_length", "buffer_words", "reads_in_flight")},
        slots=sizes.rows_in_flight,
        selectors=1,
        products_latency=Products(sizes).result_latency,
        old_latency=Products(sizes)._sum_latency,
        softmax_latency=1 + Softmax(sizes).result_latency,
        running_latency=RunningRow.LATENCY,
        weighted_latency=WeightedSum(sizes).latency - 1,
        rescale_turns=WeightedSum(sizes).rescale_cycles - 1,
        output_latency=Output(sizes, mul_latency=mul_latency).latency,
        importance_latency=Importance.LATENCY,
        decide=DECIDE,
        candidate_gap=candidate_gap(width),
        routing=eliminator_latency(width) - 1,
        refine_routing=eliminator_latency(sizes.softmax_lanes) - 1,
        passes_ahead=passes._AHEAD,
        spans_ahead=fetch.SPANS_AHEAD,
        loads=key_side.LOADS,
        refine_indices=refine_stage._INDICES,
        value_commands=values._COMMANDS,
        value_indices=values._INDICES,
        value_marks=values._MARKED,
        reader_depth=rows.RowReader._DEPTH,
        select_commands=2,
        write_commands=results._COMMANDS,
        outputs=max(32, 2 * fetch.LARGEST_HEAD // sizes.output_lanes),
        write_requests=writer._REQUESTS,
        owners=max(16, sizes.reads_in_flight),
        page_bytes=writer.PAGE_BYTES,
    )


def isa_header() -> str:
    """C++ of a job's fields, of modes by name, and of constants."""
    lines = ["#pragma once", "#include <cstdint>", "namespace attention { namespace isa {"]
    lines.append(f"struct JobFields {{ uint64_t {', '.join(item.name for item in JOB)}; }};")
    for codes in (KeyMode, ValueMode):
        names = ", ".join(f"{item.name} = {item.value}" for item in codes)
        lines.append(f"namespace {codes.__name__} {{ enum : uint64_t {{ {names} }}; }}")
    numbers = {
        **{"JOB_BYTES": JOB_BYTES, "RECORD_BYTES": RECORD_BYTES, "KEEP_FRACTION": KEEP_FRACTION, "LOW_BITS": LOW_BITS},
        **{"LONGEST_PLANE": max(PLANE_BITS), "LONGEST_QUERY": max(QUERY_BITS)},
    }
    lines += [f"constexpr uint32_t {name} = {value};" for name, value in numbers.items()]
    return "\n".join([*lines, "} }", ""])


@cache
def library() -> ctypes.CDLL:
    """Compile the model, or find it compiled, and declare its functions."""
    text = whole_text(SOURCE).replace('#include "attention_isa.h"', isa_header())
    made = ctypes.CDLL(str(build_plain("attention_cycles", text)))
    structures = (Sizes, MemorySettings, Job, Row, Counters)
    made.attention_bytes.restype = ctypes.c_uint32
    if [made.attention_bytes(which) for which in range(len(structures))] != [*map(ctypes.sizeof, structures)]:
        raise AssertionError("structures of sim/model/attention and of sim/attention/library.py differ")
    void, u64 = ctypes.c_void_p, ctypes.c_uint64
    made.attention_run.restype = ctypes.c_int
    made.attention_run.argtypes = (void, void, void, u64, void, void, void, void, u64)
    return made
