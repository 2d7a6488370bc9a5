"""ATTEND of the golden machine: the jobs of the attention engine on the machine's memory."""

import numpy as np

from hwgen.arch import UserError
from hwgen.arch.attention import JOB, JOB_BYTES, RECORD, RECORD_BYTES, pack, unpack
from hwgen.arch.commands import Command
from hwgen.arch.isa import Cause
from hwgen.arch.services import Job
from models.attention_engine.engine import AttentionEngine, check_job
from models.attention_engine.services import run_service
from models.machine_state import Fault, State, Undefined


def execute_attend(state: State, item: Command) -> None:
    """Execute one ATTEND. Raises `Fault`, or `Undefined` for a head record out of its ranges."""
    arch, engine = state.arch, state.attention
    if item.addr % arch.beat_bytes or item.addr >> arch.memory.address_bits:
        text = f"addr {item.addr:#x} must be a multiple of {arch.beat_bytes} below 2**{arch.memory.address_bits}"
        raise Fault(Cause.MEMORY_ALIGNMENT, text)
    try:
        if item.job == Job.ATTENTION:
            job = unpack(JOB, engine.memory.read(item.addr, JOB_BYTES))
            check_job(job, engine.sizes)
            _check_records(engine, job)
            engine.run(job)
        else:
            run_service(engine.sizes, engine.memory, item.job, item.addr, engine.importance, engine.operand)
    except UserError as error:
        raise Fault(Cause.BAD_DESCRIPTOR, str(error)) from None


def _check_records(engine: AttentionEngine, job: dict[str, int]) -> None:
    for head in np.flatnonzero(engine.importance.alive[: job["heads"]]).tolist():
        record = unpack(RECORD, engine.memory.read(job["heads_addr"] + head * RECORD_BYTES, RECORD_BYTES))
        try:
            pack(RECORD, RECORD_BYTES, record)
        except UserError as error:
            raise Undefined(f"in the record of head {head}, {error}") from None
