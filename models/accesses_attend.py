"""External memory that ATTEND instructions read and write, as their descriptors say."""

import numpy as np

from hwgen.arch import Arch, ProgramError, UserError
from hwgen.arch.attention import JOB, JOB_BYTES, LOW_BITS, RECORD_BYTES, KeyMode, ValueMode, unpack
from hwgen.arch.commands import Command
from hwgen.arch.services import IMPORTANCE_BYTES, INDEX_BYTES, SERVICE_BYTES, SERVICES, Job, Score
from models.accesses import Rows
from models.attention_engine.engine import check_job
from models.attention_engine.planes import row_bytes
from models.attention_engine.services import check_service
from models.memory import BusError, Memory

_FP32 = 4
_OPERAND = 2


class AttendRows:
    """Where ATTEND instructions read and write; asked in program order.

    Descriptors are those in `memory`, and so are index lists that no earlier SELECT or TOPK wrote. A list that one of
    them wrote may hold every index below its `length`.
    """

    def __init__(self, arch: Arch, memory: Memory | None) -> None:
        self._arch, self._memory = arch, memory
        self._bounds: dict[int, int] = {}
        """By address of a list that is written: indices are below."""

    def rows(self, item: Command) -> list[Rows]:
        """What one instruction touches, its descriptor first; for pruned jobs more than it comes to read.

        Raises `ProgramError` without memory, and for a descriptor that is refused or not in memory.
        """
        if item.job == Job.RESET:
            return []
        if self._memory is None:
            raise ProgramError("an ATTEND reads and writes where its descriptor says: the memory must be given")
        job = Job(item.job)
        size = JOB_BYTES if job is Job.ATTENTION else SERVICE_BYTES
        try:
            data = self._memory.read(item.addr, size)
            fields = unpack(JOB if job is Job.ATTENTION else SERVICES[job], data)
            if job is Job.ATTENTION:
                check_job(fields, self._arch.attention)
            else:
                check_service(job, fields, self._arch.attention)
            return [_run(item.addr, size, writes=False), *self._job(job, fields)]
        except (UserError, BusError) as error:
            raise ProgramError(f"the descriptor at {item.addr:#x} cannot be followed: {error}") from None

    def _job(self, job: Job, fields: dict[str, int]) -> list[Rows]:
        match job:
            case Job.ATTENTION:
                return _attention(fields)
            case Job.QUANTIZE:
                return _quantize(fields)
            case Job.SELECT:
                return self._select(fields)
            case Job.GATHER:
                return self._gather(fields)
            case Job.TOPK:
                return self._top_k(fields)
            case Job.SAVE:
                return [_run(fields["dst_addr"], IMPORTANCE_BYTES * fields["length"], writes=True)]
            case Job.RESTORE:
                return [_restore(fields)]

    def _select(self, fields: dict[str, int]) -> list[Rows]:
        length, keep = fields["length"], fields["keep"]
        self._bounds[fields["index_addr"]] = length
        found = [_run(fields["index_addr"], INDEX_BYTES * (length if fields["dropped"] else keep), writes=True)]
        if fields["protected"]:
            found.append(_run(fields["protect_addr"], -(-length // 8), writes=False))
        return found

    def _gather(self, fields: dict[str, int]) -> list[Rows]:
        size, listed = fields["row_beats"] * self._arch.beat_bytes, INDEX_BYTES * fields["rows"]
        bound = self._bounds.get(fields["index_addr"])
        if bound is None:
            bound = int(np.frombuffer(self._memory.read(fields["index_addr"], listed), "<u2").max()) + 1
        return [
            _run(fields["index_addr"], listed, writes=False),
            Rows(fields["src_addr"], bound, size, fields["src_stride"], False),
            Rows(fields["dst_addr"], fields["rows"], size, fields["dst_stride"], True),
        ]

    def _top_k(self, fields: dict[str, int]) -> list[Rows]:
        count = fields["k"]
        found = [_run(fields["src_addr"], _FP32 * fields["length"], writes=False)]
        if count:
            self._bounds[fields["index_addr"]] = fields["length"]
            found.append(_run(fields["index_addr"], INDEX_BYTES * count, writes=True))
            found.append(_run(fields["value_addr"], _FP32 * count, writes=True))
        return found


def _run(address: int, size: int, *, writes: bool) -> Rows:
    return Rows(address, 1, size, 0, writes)


def _attention(job: dict[str, int]) -> list[Rows]:
    heads, size = job["heads"], job["head_size"]
    kv_heads = -(-heads // job["group"])
    planes = [("q", heads, job["queries"], job["query_bits"]), ("k", kv_heads, job["keys"], job["key_bits"])]
    planes.append(("v", kv_heads, job["keys"], job["value_bits"]))
    if job["key_low"] and job["key_mode"] != KeyMode.NEVER:
        planes.append(("k_low", kv_heads, job["keys"], LOW_BITS))
    if job["value_low"] and job["value_mode"] != ValueMode.NEVER:
        planes.append(("v_low", kv_heads, job["keys"], LOW_BITS))
    found = [
        Rows(job[f"{name}_addr"], count, rows * row_bytes(size, bits), job[f"{name}_stride"], False)
        for name, count, rows, bits in planes
    ]
    found.append(_run(job["heads_addr"], heads * RECORD_BYTES, writes=False))
    if job["masked"]:
        found.append(_run(job["mask_addr"], -(-job["keys"] // 8), writes=False))
    found.append(Rows(job["out_addr"], job["queries"], heads * size * _OPERAND, job["out_stride"], True))
    return found


def _quantize(fields: dict[str, int]) -> list[Rows]:
    heads, size, rows = fields["heads"], fields["head_size"], fields["rows"]
    found = [
        Rows(fields["src_addr"], rows, heads * size * _OPERAND, fields["src_stride"], False),
        _run(fields["steps_addr"], _FP32 * heads, writes=False),
        Rows(fields["msb_addr"], heads, rows * row_bytes(size, fields["bits"]), fields["msb_stride"], True),
    ]
    if fields["split"]:
        found.append(Rows(fields["low_addr"], heads, rows * row_bytes(size, LOW_BITS), fields["low_stride"], True))
    return found


def _restore(fields: dict[str, int]) -> Rows:
    length = fields["length"]
    size = -(-length // 8) if fields["score"] == Score.HEADS else IMPORTANCE_BYTES * length
    return _run(fields["src_addr"], size, writes=False)
