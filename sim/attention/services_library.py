# amaranth: UnusedElaboratable=no
"""The services' cycle model as a library: its C++, and what it must know of descriptors, sizes and components."""

import ctypes
from functools import cache
from pathlib import Path

from hwgen.arch.attention import LOW_BITS, AttentionSizes
from hwgen.arch.services import IMPORTANCE_BYTES, INDEX_BYTES, SERVICE_BYTES, SERVICES, Job
from hwgen.attention.rows import row_words
from hwgen.attention.services import gather, quantize, rank, write
from hwgen.attention.services.align import OPERAND_BYTES
from hwgen.attention.services.words import quantizer_lanes, rank_width, write_burst
from hwgen.attention.writer import PAGE_BYTES
from hwgen.pruning.eliminate import eliminator_latency
from hwgen.pruning.radix_select import DECIDE, candidate_gap
from hwgen.quantization.quantizer import Quantizer
from sim.attention import library as attention_library
from sim.attention.library import MemorySettings, Row
from sim.design import whole_text
from sim.verilate import build_plain

SOURCE = Path(__file__).parents[1] / "model" / "services" / "services.cpp"
FIELDS = tuple(dict.fromkeys(item.name for fields in SERVICES.values() for item in fields))
"""Fields of all descriptors; those of the same name share a place."""


class Sizes(ctypes.Structure):
    """`Sizes` of `model/services/base.h`: same fields, same order."""

    _fields_ = [
        (name, ctypes.c_uint32)
        for name in (
            *("beat_bytes", "page_bytes", "reads_in_flight", "write_burst", "write_spans", "write_bursts"),
            *("quantizer_lanes", "integer_latency", "index_beats"),
            *("rank_width", "decide", "candidate_gap", "routing", "softmax_lanes", "row_words"),
        )
    ]


class ServiceJob(ctypes.Structure):
    """`Job` of `model/services/base.h`."""

    _fields_ = [*((name, ctypes.c_uint64) for name in (*FIELDS, "kind", "address", "alive")), ("facts", Row)]


class Counters(ctypes.Structure):
    """`Counters` of `model/services/core.h`."""

    _fields_ = [(name, ctypes.c_uint64) for name in ("cycles", "read_beats", "write_beats")]


@cache
def services_sizes(sizes: AttentionSizes, mul_latency: int = 3) -> Sizes:
    """What the model must know of an engine; `mul_latency`: registers of the multipliers of the quantiser."""
    width, lanes = rank_width(sizes), quantizer_lanes(sizes)
    quantizer = Quantizer(lanes=lanes, beat_bytes=sizes.beat_bytes, mul_latency=mul_latency)
    return Sizes(
        **{name: getattr(sizes, name) for name in ("beat_bytes", "reads_in_flight", "softmax_lanes")},
        page_bytes=PAGE_BYTES,
        write_burst=write_burst(sizes.beat_bytes),
        write_spans=write.SPANS,
        write_bursts=write.BURSTS,
        quantizer_lanes=lanes,
        integer_latency=quantizer.integer_latency,
        index_beats=gather.INDEX_BEATS,
        rank_width=width,
        decide=DECIDE,
        candidate_gap=candidate_gap(width),
        routing=eliminator_latency(width) - 1,
        row_words=row_words(sizes),
    )


def isa_header() -> str:
    """C++ of the descriptors' fields, of jobs by name, and of constants."""
    names = ", ".join(cpp_name(name) for name in FIELDS)
    kinds = ", ".join(f"{job.name} = {job.value}" for job in Job)
    numbers = {
        **{"SERVICE_BYTES": SERVICE_BYTES, "INDEX_BYTES": INDEX_BYTES, "OPERAND_BYTES": OPERAND_BYTES},
        **{
            "IMPORTANCE_BYTES": IMPORTANCE_BYTES,
            "STEP_BYTES": quantize.STEP_BYTES,
            "VALUE_BYTES": rank.VALUE_BYTES,
            "LOW_BITS": LOW_BITS,
        },
    }
    return "\n".join(
        [
            "#pragma once\n#include <cstdint>\nnamespace services { namespace isa {",
            f"struct Fields {{ uint64_t {names}; }};",
            f"namespace Kind {{ enum : uint64_t {{ {kinds} }}; }}",
            *(f"constexpr uint32_t {name} = {value};" for name, value in numbers.items()),
            "} }\n",
        ]
    )


def cpp_name(name: str) -> str:
    """Name of a field in C++, in which `protected` is a keyword."""
    return f"{name}_" if name == "protected" else name


def with_headers(text: str) -> str:
    """C++ with what is made from the contracts of both kinds of jobs."""
    text = text.replace('#include "attention_isa.h"', attention_library.isa_header())
    return text.replace('#include "services_isa.h"', isa_header())


@cache
def library() -> ctypes.CDLL:
    """Compile the model, or find it compiled, and declare its functions."""
    made = ctypes.CDLL(str(build_plain("services_cycles", with_headers(whole_text(SOURCE)))))
    structures = (Sizes, MemorySettings, ServiceJob, Counters)
    made.services_bytes.restype = ctypes.c_uint32
    if [made.services_bytes(which) for which in range(len(structures))] != [*map(ctypes.sizeof, structures)]:
        raise AssertionError("structures of sim/model/services and of sim/attention/services_library.py differ")
    void, u64 = ctypes.c_void_p, ctypes.c_uint64
    made.services_run.restype = ctypes.c_int
    made.services_run.argtypes = (void, void, void, void, void, void, u64)
    return made
