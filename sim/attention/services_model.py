"""The cycle model of the jobs beside attention: what they take, without their data. Equal to the RTL in every cycle.

`model/services/` follows `hwgen/attention/services` in C++, in front of the same memories as the model of the attention
core. What data decide, `golden_service` says.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hwgen.arch.attention import AttentionSizes, unpack
from hwgen.arch.services import SERVICE_BYTES, SERVICES, Job, Score
from hwgen.pruning.cycles import radix_passes
from hwgen.pruning.keys import KEY_BITS
from models.attention_engine.engine import Importance
from models.attention_engine.services import check_service, protected_tokens, ranked_vector
from models.memory import Memory
from models.topk import top_k
from sim.attention.library import MemorySettings
from sim.attention.model import Lists, stall_pattern
from sim.attention.services_library import Counters, ServiceJob, library, services_sizes
from sim.stalls import Stalls, never

_ALL_ONES = (1 << KEY_BITS) - 1


@dataclass(frozen=True)
class ModelService:
    """A job beside attention: its descriptor and where it is, and what data decide.

    alive : a bit for each head that is alive. listed : what the list holds that SELECT or TOPK writes or GATHER reads.
    passes : elements in each pass of the search of SELECT and TOPK behind the arrival.
    """

    job: Job
    fields: dict[str, int] = field(default_factory=dict)
    address: int = 0
    alive: int = 0
    listed: Sequence[int] | NDArray[np.integer] = ()
    passes: Sequence[int] = ()


@dataclass(frozen=True)
class ServiceCycles:
    """As `sim.attention.services_block.ServiceRun`."""

    cycles: int
    read_beats: int
    write_beats: int


def golden_service(
    sizes: AttentionSizes, memory: Memory, job: int, address: int, importance: Importance
) -> ModelService:
    """What the cycles of a job depend on, before it is run. Raises `UserError` for a bad descriptor."""
    job = Job(job)
    if job is Job.RESET:
        return ModelService(job)
    fields = unpack(SERVICES[job], memory.read(address, SERVICE_BYTES))
    check_service(job, fields, sizes)
    alive = sum(int(flag) << head for head, flag in enumerate(importance.alive))
    listed, passes = _DATA[job](memory, fields, importance) if job in _DATA else ((), ())
    return ModelService(job, fields, address, alive, listed, passes)


_Facts = tuple[NDArray[np.integer], list[int]]


def _gather(memory: Memory, fields: dict[str, int], importance: Importance) -> _Facts:
    return np.frombuffer(memory.read(fields["index_addr"], 2 * fields["rows"]), "<u2"), []


def _select(memory: Memory, fields: dict[str, int], importance: Importance) -> _Facts:
    length = fields["length"]
    if fields["score"] == Score.HEADS:
        alive = importance.alive[:length]
        kept, passes = _rank(np.where(alive, importance.heads[:length] + 1, 0), fields["keep"])
        kept = kept[alive[kept]]
    else:
        protected = protected_tokens(memory, fields)
        kept, passes = _rank(np.where(protected, _ALL_ONES, importance.tokens[:length]), fields["keep"])
    return np.setdiff1d(np.arange(length), kept) if fields["dropped"] else kept, passes


def _top_k(memory: Memory, fields: dict[str, int], importance: Importance) -> _Facts:
    _, scores = ranked_vector(memory, fields)
    return _rank(scores, fields["k"])


def _rank(keys: NDArray[np.integer], count: int) -> _Facts:
    return top_k(keys.astype(np.uint32), count), radix_passes(keys.tolist(), count, bits=KEY_BITS)


_DATA = {Job.SELECT: _select, Job.GATHER: _gather, Job.TOPK: _top_k}


def run_service_model(
    sizes: AttentionSizes,
    job: ModelService,
    *,
    latency: int = 40,
    stalls: Stalls = never,
    limit: int = 100_000_000,
) -> ServiceCycles:
    """A job from its command to its end; latency, stalls, limit : as for `ServiceBlock.run`.

    Raises AssertionError after `limit` cycles.
    """
    table, items, passes = service_tables([job])
    pattern, counters = stall_pattern(stalls, limit), Counters()
    memory = MemorySettings(latency, len(pattern), pattern.ctypes.data)
    ended = library().services_run(
        *(ctypes.byref(part) for part in (services_sizes(sizes), memory, table)),
        *(array.ctypes.data for array in (items, passes)),
        ctypes.byref(counters),
        limit,
    )
    if not ended:
        raise AssertionError(f"{job.job.name} has not ended after {limit} cycles")
    return ServiceCycles(*(getattr(counters, name) for name, _ in Counters._fields_))


def service_tables(jobs: Sequence[ModelService]) -> tuple[ctypes.Array, NDArray[np.uint32], NDArray[np.uint32]]:
    """Jobs, and the lists that they point to: of indices, of passes, as C++ takes them."""
    made, items, passes = (ServiceJob * max(1, len(jobs)))(), Lists(), Lists()
    for target, job in zip(made, jobs):
        for name, value in job.fields.items():
            setattr(target, name, value)
        target.kind, target.address, target.alive = job.job, job.address, job.alive
        target.facts.kept, target.facts.kept_count = items.add(job.listed)
        target.facts.passes, target.facts.passes_count = passes.add(job.passes)
    return made, items.array(), passes.array()
