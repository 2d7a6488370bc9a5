"""Jobs beside attention: quantising, selecting, copying rows, top-k. Descriptors are in hwgen/arch/services.py."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hwgen.arch.attention import ADDRESS_ALIGN, CHUNK, LOW_BITS, PLANE_BITS, QUERY_BITS, AttentionSizes, unpack
from hwgen.arch.errors import UserError
from hwgen.arch.services import IMPORTANCE_BYTES, SERVICE_BYTES, SERVICES, Job, Key, Score, pack_service
from models.attention_engine.cascade import compact, survivors
from models.attention_engine.engine import Importance
from models.attention_engine.planes import pack_plane, quantize, split
from models.formats import decode
from models.memory import Memory
from models.topk import fp32_scores, top_k

_PACKED = ("src_addr", "src_stride", "msb_addr", "msb_stride", "low_addr", "low_stride")
"""Fields of QUANTIZE that need not be multiples of the beat size."""


def check_service(job: Job, fields: dict[str, int], sizes: AttentionSizes) -> None:
    """Raise `UserError` for a descriptor whose fields are out of range, contradict each other or ask for too much."""
    pack_service(job, fields)
    for holds, text in _RULES[job](fields, sizes):
        if not holds:
            raise UserError(f"{job.name}: {text}")
    for name, value in fields.items():
        if name.endswith(("_addr", "_stride")):
            align = ADDRESS_ALIGN if job is Job.QUANTIZE and name in _PACKED else sizes.beat_bytes
            if value % align:
                raise UserError(f"{job.name}: {name} must be a multiple of {align}, not {value:#x}")


def run_service(
    sizes: AttentionSizes, memory: Memory, job: int, addr: int, importance: Importance, operand: str = "fp16"
) -> None:
    """Run the job whose descriptor is at `addr` (RESET reads none) on `memory` and `importance`.

    `operand` is the format of what QUANTIZE reads. Raises `UserError` for a bad descriptor, before anything is written.
    """
    if job not in SERVICES:
        names = ", ".join(f"{one.name} ({one.value})" for one in SERVICES)
        raise UserError(f"a job beside attention must be one of {names}, not {job}")
    job = Job(job)
    if job is Job.RESET:
        importance.alive[:], importance.heads[:] = True, 0
        return
    if addr % sizes.beat_bytes:
        raise UserError(f"{job.name}: the descriptor must be at a multiple of {sizes.beat_bytes}, not {addr:#x}")
    fields = unpack(SERVICES[job], memory.read(addr, SERVICE_BYTES))
    check_service(job, fields, sizes)
    runs = {
        Job.QUANTIZE: lambda: _quantize(memory, fields, importance, operand),
        Job.SELECT: lambda: _select(memory, fields, importance),
        Job.GATHER: lambda: _gather(memory, fields, sizes),
        Job.TOPK: lambda: _top_k(memory, fields),
        Job.SAVE: lambda: _save(memory, fields, importance),
        Job.RESTORE: lambda: _restore(memory, fields, importance),
    }
    runs[job]()


_Rules = list[tuple[bool, str]]


def _quantize_rules(fields: dict[str, int], sizes: AttentionSizes) -> _Rules:
    allowed, queries = PLANE_BITS if fields["split"] else QUERY_BITS, fields["heads"] * fields["group"]
    return [
        (queries <= sizes.max_heads, f"heads x group must be at most {sizes.max_heads}, not {queries}"),
        (fields["head_size"] % CHUNK == 0, f"head_size must be a multiple of {CHUNK}, not {fields['head_size']}"),
        (fields["bits"] in allowed, f"bits must be one of {', '.join(map(str, allowed))}, not {fields['bits']}"),
    ]


def _select_rules(fields: dict[str, int], sizes: AttentionSizes) -> _Rules:
    heads, length, keep = fields["score"] == Score.HEADS, fields["length"], fields["keep"]
    tokens_only = not (heads and (fields["first"] or fields["protected"] or fields["compact"]))
    return [
        *_length_rules(fields, sizes),
        (keep <= length, f"keep ({keep}) must be at most length ({length})"),
        (tokens_only, "first, protected and compact must be 0 for HEADS"),
        (not (fields["compact"] and fields["dropped"]), "compact and dropped exclude each other"),
    ]


def _length_rules(fields: dict[str, int], sizes: AttentionSizes) -> _Rules:
    most = sizes.max_heads if fields.get("score") == Score.HEADS else sizes.max_length
    return [(fields["length"] <= most, f"length must be at most {most}, not {fields['length']}")]


def _top_k_rules(fields: dict[str, int], sizes: AttentionSizes) -> _Rules:
    length, k = fields["length"], fields["k"]
    return [
        *_length_rules(fields, sizes),
        (k <= length, f"k ({k}) must be at most length ({length})"),
    ]


_RULES: dict[Job, Callable[[dict[str, int], AttentionSizes], _Rules]] = {
    Job.QUANTIZE: _quantize_rules,
    Job.SELECT: _select_rules,
    Job.GATHER: lambda fields, sizes: [],
    Job.TOPK: _top_k_rules,
    Job.RESET: lambda fields, sizes: [],
    Job.SAVE: _length_rules,
    Job.RESTORE: _length_rules,
}


def _quantize(memory: Memory, fields: dict[str, int], importance: Importance, operand: str) -> None:
    rows, size, bits = fields["rows"], fields["head_size"], fields["bits"]
    steps = np.frombuffer(memory.read(fields["steps_addr"], 4 * fields["heads"]), "<f4")
    queries = importance.alive[: fields["heads"] * fields["group"]].reshape(fields["heads"], fields["group"])
    for head in np.flatnonzero(queries.any(1)).tolist():
        source = memory.read_rows(fields["src_addr"] + head * size * 2, rows, size * 2, fields["src_stride"])
        values = decode(source.view("<u2"), operand)
        integers = quantize(values, steps[head], bits + LOW_BITS * fields["split"])
        planes = {"msb": (integers, bits)}
        if fields["split"]:
            msb, low = split(integers)
            planes = {"msb": (msb, bits), "low": (low, LOW_BITS)}
        for name, (elements, width) in planes.items():
            memory.write(fields[f"{name}_addr"] + head * fields[f"{name}_stride"], pack_plane(elements, width))


def _select(memory: Memory, fields: dict[str, int], importance: Importance) -> None:
    length, keep = fields["length"], fields["keep"]
    if fields["score"] == Score.HEADS:
        candidates = np.flatnonzero(importance.alive[:length])
        kept = candidates[:0]
        if len(candidates):
            kept = candidates[survivors(importance.heads[candidates], min(keep, len(candidates)))]
        importance.alive[:] = False
        importance.alive[kept] = True
    else:
        kept = survivors(importance.tokens[:length], keep, protected_tokens(memory, fields))
    if fields["compact"]:
        importance.tokens[:] = compact(importance.tokens, kept)
    listed = np.setdiff1d(np.arange(length), kept) if fields["dropped"] else kept
    memory.write(fields["index_addr"], listed.astype("<u2").tobytes())


def protected_tokens(memory: Memory, fields: dict[str, int]) -> NDArray[np.bool_]:
    """Which tokens SELECT must keep: the first ones, and those with a bit."""
    protected = np.arange(fields["length"]) < fields["first"]
    if fields["protected"]:
        protected |= _bits(memory, fields["protect_addr"], fields["length"])
    return protected


def _gather(memory: Memory, fields: dict[str, int], sizes: AttentionSizes) -> None:
    size = fields["row_beats"] * sizes.beat_bytes
    indices = np.frombuffer(memory.read(fields["index_addr"], 2 * fields["rows"]), "<u2").tolist()
    for row, index in enumerate(indices):
        data = memory.read(fields["src_addr"] + index * fields["src_stride"], size)
        memory.write(fields["dst_addr"] + row * fields["dst_stride"], data)


def ranked_vector(memory: Memory, fields: dict[str, int]) -> tuple[NDArray[np.uint32], NDArray[np.integer]]:
    """Bits of the numbers that TOPK reads, and the scores by which it ranks them."""
    bits = np.frombuffer(memory.read(fields["src_addr"], 4 * fields["length"]), "<u4")
    ranked = bits & np.uint32(0x7FFFFFFF) if fields["key"] == Key.MAGNITUDE else bits
    return bits, fp32_scores(ranked.view(np.float32))


def _top_k(memory: Memory, fields: dict[str, int]) -> None:
    bits, scores = ranked_vector(memory, fields)
    kept = top_k(scores, fields["k"])
    memory.write(fields["index_addr"], kept.astype("<u2").tobytes())
    memory.write(fields["value_addr"], bits[kept].tobytes())


def _save(memory: Memory, fields: dict[str, int], importance: Importance) -> None:
    memory.write(fields["dst_addr"], importance.tokens[: fields["length"]].astype("<u4").tobytes())


def _restore(memory: Memory, fields: dict[str, int], importance: Importance) -> None:
    address, length = fields["src_addr"], fields["length"]
    if fields["score"] == Score.HEADS:
        importance.alive[:] = False
        importance.alive[:length] = _bits(memory, address, length)
    else:
        importance.tokens[:] = 0
        importance.tokens[:length] = np.frombuffer(memory.read(address, IMPORTANCE_BYTES * length), "<u4")


def _bits(memory: Memory, address: int, count: int) -> NDArray[np.bool_]:
    """Bits in memory, the first one lowest."""
    data = np.frombuffer(memory.read(address, -(-count // 8)), np.uint8)
    return np.unpackbits(data, bitorder="little")[:count].astype(np.bool_)
