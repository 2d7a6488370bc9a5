"""Kernels of `Attend` and `Gather`: ATTEND instructions, with the descriptors that they read.

The engine remembers importance and which heads are alive, so its instructions stay in the order of the layers: each
one reads and writes the region STATE.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from hwgen.arch.attention import JOB, JOB_BYTES, LOW_BITS, pack
from hwgen.arch.isa import Opcode, command
from hwgen.arch.services import INDEX_BYTES, Job, Score, pack_service
from models.attention.attention import Magnitudes
from models.attention.policy import PruningPolicy
from models.attention_engine.planes import row_bytes
from models.attention_engine.services import check_service
from models.machine_attend import check_descriptor
from scheduler.attention.cascade import Kept
from scheduler.attention.jobs import LayerJobs, Operands, layer_jobs
from scheduler.attention.operators import Attend, Gather
from scheduler.hazards import Region
from scheduler.training.blocks import Feature
from scheduler.training.fuse import Group
from scheduler.training.kernels import Kernels
from scheduler.training.lower import Step

STATE = Region("attend", 0, 1)


@dataclass(frozen=True)
class Planes:
    """Where the planes of queries, keys or values are: fields of descriptors, and what they cover for hazards."""

    fields: dict[str, int]
    region: Region


@dataclass
class AttentionKernels:
    """Records the kernels of one program, layer by layer."""

    policy: PruningPolicy
    kept: list[Kept]
    magnitudes: list[Magnitudes]
    layer: int = -1
    selected: list[tuple[int, int]] = field(default_factory=list)
    """Address and length of the index list of each selection of tokens."""

    @property
    def handlers(self) -> Kernels:
        """For `emit_all`."""
        return {Attend: self.attend, Gather: self.gather}

    def attend(self, step: Step, group: Group) -> None:
        """Quantise queries, keys and values, then attention; heads are selected before."""
        item: Attend = group.main
        self.layer += 1
        if self.layer == 0:
            _run(step, Job.RESET, 0)
        if item.keep_heads is not None:
            self._select(step, Score.HEADS, item.heads, item.keep_heads)
        shape, sizes = step.graph.tensors[item.output].shape, step.arch.attention
        jobs = layer_jobs(item, shape, self.policy, self.layer, self.magnitudes[self.layer], sizes)
        places = {name: step.features[getattr(item, name)] for name in ("query", "key", "value")}
        planes = {name: _quantize(step, jobs, getattr(jobs, name), feature) for name, feature in places.items()}
        self._attention(step, jobs, planes)

    def gather(self, step: Step, group: Group) -> None:
        """Select tokens by their importance, and copy their rows one behind the other."""
        source, target = step.features[group.main.input], step.features[group.main.output]
        indices = self._select(step, Score.TOKENS, source.n, target.n)
        self.selected.append((indices.address, target.n))
        row = source.words * step.arch.beat_bytes
        fields = {
            "rows": target.n,
            "row_beats": source.words,
            "index_addr": indices.address,
            "src_addr": source.address,
            "src_stride": row,
            "dst_addr": target.address,
            "dst_stride": row,
        }
        reads = [indices.region, step.em.pixels(source, 0, source.n)]
        _service(step, Job.GATHER, fields, reads, [step.em.pixels(target, 0, target.n)])

    def _attention(self, step: Step, jobs: LayerJobs, planes: dict[str, Planes]) -> None:
        item, target = jobs.item, step.features[jobs.item.output]
        later = any(before != after for before, after in pairwise(self.kept[self.layer :]))
        fields = jobs.fields | {
            "importance": int(later),
            "out_addr": target.address,
            "out_stride": target.words * step.arch.beat_bytes,
            "heads_addr": _constant(step, f"{item.output} (head records)", jobs.records),
        }
        for name, letter in (("query", "q"), ("key", "k"), ("value", "v")):
            found = planes[name].fields
            fields |= {f"{letter}_addr": found["msb_addr"], f"{letter}_stride": found["msb_stride"]}
            if name != "query":
                fields |= {f"{letter}_low_addr": found["low_addr"], f"{letter}_low_stride": found["low_stride"]}
        check_descriptor(fields, step.arch.attention)
        address = _constant(step, f"{item.output} (job)", pack(JOB, JOB_BYTES, fields))
        reads = [one.region for one in planes.values()]
        _run(step, Job.ATTENTION, address, reads, [step.em.pixels(target, 0, target.n)])

    def _select(self, step: Step, score: Score, length: int, keep: int) -> "Indices":
        """The index list of those that survive."""
        name = f"layer {self.layer} {score.name.lower()}"
        indices = Indices(*step.memory.area(name, "indices", INDEX_BYTES * keep))
        tokens = score == Score.TOKENS
        recent = self.policy.recent if tokens and self._causal(step) else 0
        bits = np.zeros(-(-length // 8) * 8, np.uint8)
        bits[max(0, length - recent) : length] = 1
        fields = {
            "score": score,
            "length": length,
            "keep": keep,
            "first": min(self.policy.protect_first, length) if tokens else 0,
            "protected": int(recent > 0),
            "compact": int(tokens),
            "dropped": 0,
            "protect_addr": _constant(step, name, np.packbits(bits, bitorder="little").tobytes()) if recent else 0,
            "index_addr": indices.address,
        }
        _service(step, Job.SELECT, fields, [], [indices.region])
        return indices

    def _causal(self, step: Step) -> bool:
        return any(item.causal for item in step.graph.operators if isinstance(item, Attend))


@dataclass(frozen=True)
class Indices:
    """An index list in memory; `unit` numbers it for hazards."""

    address: int
    unit: int

    @property
    def region(self) -> Region:
        """All of it."""
        return Region("dram", self.unit, self.unit + 1)


def _quantize(step: Step, jobs: LayerJobs, operands: Operands, source: Feature) -> Planes:
    """Planes of the heads of some rows."""
    sizes = [jobs.tokens * row_bytes(jobs.head_size, bits) for bits in (operands.bits, LOW_BITS)]
    room = jobs.item.heads * (sizes[0] + (sizes[1] if operands.split else 0))
    address, unit = step.memory.area(f"{source.name} (planes)", "planes", room)
    fields = {
        "rows": jobs.tokens,
        "heads": jobs.item.heads,
        "head_size": jobs.head_size,
        "bits": operands.bits,
        "split": int(operands.split),
        "src_addr": source.address,
        "src_stride": source.words * step.arch.beat_bytes,
        "steps_addr": _constant(step, f"{source.name} (steps)", operands.inverse.astype("<f4").tobytes()),
        "msb_addr": address,
        "msb_stride": sizes[0],
        "low_addr": address + jobs.item.heads * sizes[0] if operands.split else 0,
        "low_stride": sizes[1] if operands.split else 0,
    }
    region = Region("dram", unit, unit + 1)
    _service(step, Job.QUANTIZE, fields, [step.em.pixels(source, 0, source.n)], [region])
    return Planes(fields, region)


def _service(step: Step, job: Job, fields: dict[str, int], reads: list[Region], writes: list[Region]) -> None:
    check_service(job, fields, step.arch.attention)
    _run(step, job, _constant(step, f"{job.name} descriptor", pack_service(job, fields)), reads, writes)


def _run(step: Step, job: Job, address: int, reads: Sequence[Region] = (), writes: Sequence[Region] = ()) -> None:
    step.em.recorder.add(command(Opcode.ATTEND, job=job, addr=address), reads=reads, writes=[*writes, STATE])


def _constant(step: Step, name: str, data: bytes) -> int:
    """Address of bytes that the host writes once."""
    address, _ = step.memory.area(name, "descriptor", len(data))
    step.data.append((address, data))
    return address
