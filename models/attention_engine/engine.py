"""A whole attention job: descriptor and memory in, outputs and importance out, with what was fetched."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hwgen.arch.attention import (
    ADDRESS_ALIGN,
    CHUNK,
    FORGET_FRACTION,
    HEAD_FRACTION,
    JOB,
    JOB_BYTES,
    PLANE_BITS,
    QUERY_BITS,
    RECORD,
    RECORD_BYTES,
    SCORE_MAX,
    AttentionSizes,
    KeyMode,
    ValueMode,
    pack,
    unpack,
)
from hwgen.arch.errors import UserError
from models.attention_engine.planes import LOW_BITS, beats, row_bytes, unpack_plane
from models.attention_engine.row import Fetched, Plane, RowResult, attend_row
from models.formats import encode
from models.memory import Memory


@dataclass
class Importance:
    """What jobs add to: `tokens` [max_length] and `heads` [max_heads], and which heads are alive (all at first)."""

    tokens: NDArray[np.int64]
    heads: NDArray[np.int64]
    alive: NDArray[np.bool_]

    @classmethod
    def empty(cls, sizes: AttentionSizes) -> "Importance":
        """Nothing is known, every head is alive."""
        zeros = np.zeros(sizes.max_length, np.int64)
        return cls(zeros, np.zeros(sizes.max_heads, np.int64), np.ones(sizes.max_heads, np.bool_))


@dataclass(frozen=True)
class RowRecord:
    """What one row did: its place, the keys in its range, what it fetched, and the beats of the reads for it."""

    head: int
    query: int
    keys: int
    low_keys: int
    values: int
    beats: int


@dataclass
class JobResult:
    """Rows in the order of their execution; `head_beats`: beats of queries, and of keys and values that are held."""

    rows: list[RowRecord] = field(default_factory=list)
    head_beats: int = 0

    @property
    def read_beats(self) -> int:
        """Beats of queries, keys and values, descriptors and masks not counted."""
        return self.head_beats + sum(row.beats for row in self.rows)


def check_job(job: dict[str, int], sizes: AttentionSizes) -> None:
    """Raise `UserError` for a job that `sizes` has no room for, or whose fields contradict each other."""
    pack(JOB, JOB_BYTES, job)
    tiled = job["keys"] > sizes.max_length
    rules = (
        (job["head_size"] % CHUNK == 0, f"head_size must be a multiple of {CHUNK}, not {job['head_size']}"),
        (job["query_bits"] in QUERY_BITS, f"query_bits must be even, not {job['query_bits']}"),
        (job["key_bits"] in PLANE_BITS, f"key_bits must be even, not {job['key_bits']}"),
        (job["value_bits"] in PLANE_BITS, f"value_bits must be even, not {job['value_bits']}"),
        (job["heads"] <= sizes.max_heads, f"heads must be at most {sizes.max_heads}, not {job['heads']}"),
        (job["heads"] % job["group"] == 0, f"group ({job['group']}) must divide heads ({job['heads']})"),
        (not (tiled and job["masked"]), f"a mask covers {sizes.max_length} keys, not {job['keys']}"),
        (not (tiled and job["importance"]), f"importance covers {sizes.max_length} keys, not {job['keys']}"),
        (
            not tiled or job["key_mode"] in (KeyMode.NEVER, KeyMode.ALWAYS),
            f"key_mode must be NEVER or ALWAYS for more than {sizes.max_length} keys, not {job['key_mode']}",
        ),
        (
            not job["hold"] or sizes.words(job["head_size"], job["keys"]) <= sizes.buffer_words,
            f"{job['keys']} keys of {job['head_size']} elements do not fit the buffer of {sizes.buffer_words} words",
        ),
    )
    for holds, text in rules:
        if not holds:
            raise UserError(text)
    _check_places(job, sizes)


def _check_places(job: dict[str, int], sizes: AttentionSizes) -> None:
    for name in (item.name for item in JOB if item.name.endswith(("_addr", "_stride"))):
        align = sizes.beat_bytes if name in ("mask_addr", "heads_addr") else ADDRESS_ALIGN
        if job[name] % align:
            raise UserError(f"{name} must be a multiple of {align}, not {job[name]:#x}")


class AttentionEngine:
    """Runs jobs on a memory; `importance` is kept from job to job.

    `operand` is the format of outputs: fp16 or bf16.
    """

    def __init__(self, sizes: AttentionSizes, memory: Memory, *, operand: str = "fp16") -> None:
        self.sizes, self.memory, self.operand = sizes, memory, operand
        self.importance = Importance.empty(sizes)

    def run(self, job: dict[str, int], watch: Callable[[RowResult], None] = lambda row: None) -> JobResult:
        """One job, as in `JOB`: all rows of its heads that are alive, each of which `watch` is told.

        Raises `UserError` as `check_job` does.
        """
        check_job(job, self.sizes)
        result, mask = JobResult(), self._mask(job)
        loaded, held, first = None, (Plane(np.zeros((0, 0), np.int64)),) * 2, True
        for head in range(job["heads"]):
            if not self.importance.alive[head]:
                self._write_zeros(job, head)
                continue
            kv_head = head // job["group"]
            if kv_head != loaded:
                held, loaded = self._planes(job, kv_head), kv_head
                result.head_beats += self._held_beats(job, kv_head) if job["hold"] else 0
            result.head_beats += self._beats(job, "q", head, range(job["queries"]))
            record = unpack(RECORD, self.memory.read(job["heads_addr"] + head * RECORD_BYTES, RECORD_BYTES))
            for query in range(job["queries"]):
                row = self._row(job, head, query, held, mask, record)
                watch(row)
                self._account(job, head, query, row, first)
                result.rows.append(self._record(job, head, query, kv_head, row.fetched))
                first = False
        return result

    def _row(
        self, job: dict[str, int], head: int, query: int, held: tuple[Plane, Plane], mask: NDArray, record: dict
    ) -> RowResult:
        size = row_bytes(job["head_size"], job["query_bits"])
        data = self.memory.read(job["q_addr"] + head * job["q_stride"] + query * size, size)
        vector = unpack_plane(data, 1, job["head_size"], job["query_bits"])[0]
        length = min(job["keys"], job["offset"] + query + 1) if job["causal"] else job["keys"]
        keys, values = (plane.part(slice(0, length)) for plane in held)
        return attend_row(vector, keys, values, mask[:length], job, record, self.sizes.max_length)

    def _account(self, job: dict[str, int], head: int, query: int, row: RowResult, first: bool) -> None:
        """Write the outputs of a row and add to importance."""
        address = job["out_addr"] + query * job["out_stride"] + head * job["head_size"] * 2
        self.memory.write(address, encode(row.output, self.operand).astype("<u2").tobytes())
        if not job["importance"]:
            return
        state = self.importance
        if first:
            state.tokens[: job["keys"]] = state.tokens[: job["keys"]] * job["forget"] >> FORGET_FRACTION
        seen = slice(0, len(row.probabilities))
        state.tokens[seen] = np.minimum(state.tokens[seen] + row.probabilities, SCORE_MAX)
        magnitude = np.floor(np.abs(row.output.astype(np.float64)) * (1 << HEAD_FRACTION) + 0.5)
        addend = int(np.minimum(magnitude, SCORE_MAX).sum())
        state.heads[head] = min(int(state.heads[head]) + addend, SCORE_MAX)

    def _planes(self, job: dict[str, int], kv_head: int) -> tuple[Plane, Plane]:
        """Keys and values of a head."""

        def read(name: str, bits: int) -> NDArray[np.int64]:
            size = job["keys"] * row_bytes(job["head_size"], bits)
            data = self.memory.read(job[f"{name}_addr"] + kv_head * job[f"{name}_stride"], size)
            return unpack_plane(data, job["keys"], job["head_size"], bits)

        return tuple(
            Plane(read(name, job[f"{word}_bits"]), read(f"{name}_low", LOW_BITS) if job[f"{word}_low"] else None)
            for name, word in (("k", "key"), ("v", "value"))
        )

    def _mask(self, job: dict[str, int]) -> NDArray[np.bool_]:
        if not job["masked"]:
            return np.ones(job["keys"], dtype=np.bool_)
        data = self.memory.read(job["mask_addr"], -(-job["keys"] // 8))
        return np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")[: job["keys"]].astype(np.bool_)

    def _write_zeros(self, job: dict[str, int], head: int) -> None:
        size = job["head_size"] * 2
        for query in range(job["queries"]):
            self.memory.write(job["out_addr"] + query * job["out_stride"] + head * size, bytes(size))

    def _held_beats(self, job: dict[str, int], kv_head: int) -> int:
        """Beats of the planes of a head that is held; LSB planes come along if any row may ask for them."""
        wanted = {
            "k": True,
            "k_low": job["key_low"] and job["key_mode"] != KeyMode.NEVER,
            "v": True,
            "v_low": job["value_low"] and job["value_mode"] != ValueMode.NEVER,
        }
        return sum(self._beats(job, name, kv_head, range(job["keys"])) for name, fetch in wanted.items() if fetch)

    def _record(self, job: dict[str, int], head: int, query: int, kv_head: int, fetched: Fetched) -> RowRecord:
        parts = {
            "k": fetched.keys,
            "k_low": fetched.key_lows,
            "v": fetched.values,
            "v_low": fetched.value_lows,
        }
        total = 0
        if not job["hold"]:
            total += sum(self._beats(job, name, kv_head, rows) for name, tiles in parts.items() for rows in tiles)
        keys, low_keys, values, _ = (sum(map(len, tiles)) for tiles in parts.values())
        return RowRecord(head, query, keys, low_keys, values, total)

    def _beats(self, job: dict[str, int], name: str, head: int, rows: NDArray | range) -> int:
        bits = job[{"q": "query_bits", "k": "key_bits", "v": "value_bits"}[name]] if len(name) == 1 else LOW_BITS
        address = job[f"{name}_addr"] + head * job[f"{name}_stride"]
        return beats(address, row_bytes(job["head_size"], bits), rows, self.sizes.beat_bytes)
