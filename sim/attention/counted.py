"""What a program with ATTEND takes, by cycle model and golden machine, and what it moves, by its instructions."""

from hwgen.arch.isa import Opcode
from hwgen.arch.services import Job
from models.accesses import memory_rows
from models.accesses_attend import AttendRows
from models.memory import Memory
from scheduler.attention.program import EncoderProgram
from sim.attention.facts import attend_jobs
from sim.cycles import run_model


def counted_run(program: EncoderProgram, memory: Memory) -> dict[str, int]:
    """Run a program on the golden machine, which changes `memory`; what the cycle model says of this run.

    Cycles with the memory of `MemoryModel`, those in which ATTEND is busy, bytes of all ports.
    """
    code = program.code
    jobs = attend_jobs(program.arch, code.encode(), memory)
    run = run_model(program.arch, code.encode(), address=code.address, attend=jobs)
    beats = run.counters["READ_BEATS"] + run.counters["WRITE_BEATS"]
    taken = {"cycles": run.cycles, "cycles_attend": run.counters["BUSY_ATTEND"]}
    return taken | {"bytes": beats * program.arch.beat_bytes}


def traffic(program: EncoderProgram, memory: Memory) -> dict[str, int]:
    """Instructions, and bytes to and from external memory, as they and the descriptors in `memory` say; pruned heads
    are counted.
    """
    found = dict.fromkeys(("attention", "services", "array"), 0)
    attend = AttendRows(program.arch, memory)
    for item in program.code.commands:
        if item.opcode == Opcode.ATTEND:
            kind, rows = "attention" if item.job == Job.ATTENTION else "services", attend.rows(item)
            if item.job == Job.GATHER:
                *others, _, copies = rows
                rows = [*others, copies, copies]  # of the source, as many rows are read as are written
        else:
            touched = memory_rows(item, program.arch)
            kind, rows = "array", [touched] if touched else []
        found[kind] += sum(one.rows * one.planes * one.size for one in rows)
    return found | {"instructions": len(program.code.commands)}
