"""Kernels of `Attend` and `Gather`: ATTEND instructions, with the descriptors that they read.

The engine remembers importance and which heads are alive, so its instructions stay in the order of the layers: each
one reads and writes the region STATE.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from hwgen.arch.attention import JOB, JOB_BYTES, LOW_BITS, pack
from hwgen.arch.commands import command
from hwgen.arch.isa import Opcode
from hwgen.arch.services import INDEX_BYTES, Job, Score, pack_service
from models.attention.attention import Magnitudes
from models.attention.policy import PruningPolicy
from models.attention_engine.engine import check_job
from models.attention_engine.planes import row_bytes
from models.attention_engine.services import check_service
from scheduler.attention.cascade import Kept
from scheduler.attention.jobs import LayerJobs, layer_jobs
from scheduler.attention.lengths import Sized, recent_bits
from scheduler.attention.operators import Attend, Gather, RmsNorm
from scheduler.attention.planes import Area, Planes
from scheduler.attention.rms_norm import emit_rms_norm
from scheduler.hazards import Region
from scheduler.training.kernels.blocks import Feature
from scheduler.training.kernels.table import Kernels
from scheduler.training.lower import Step
from scheduler.training.schedule.fuse import Group

STATE = Region("attend", 0, 1)


@dataclass
class AttentionKernels:
    """Records the kernels of one program, layer by layer."""

    policy: PruningPolicy
    kept: list[Kept]
    magnitudes: list[Magnitudes]
    layer: int = -1
    selected: list[tuple[int, int]] = field(default_factory=list)
    """Address of the index list of each selection of tokens, and the layer that keeps them."""
    sized: list[Sized] = field(default_factory=list)
    """Descriptors that change with the length of the sequence."""
    indices: Area | None = None
    """Of the tokens that were selected last."""

    @property
    def handlers(self) -> Kernels:
        """For `emit_all`."""
        return {Attend: self.attend, Gather: self.gather, RmsNorm: emit_rms_norm}

    def attend(self, step: Step, group: Group) -> None:
        """Quantise queries, keys and values, then attention; heads are selected before."""
        item: Attend = group.main
        self.layer += 1
        if self.layer == 0:
            run(step, Job.RESET, 0)
        self._choose(step, item)
        shape, sizes = step.graph.tensors[item.output].shape, step.arch.attention
        magnitudes, before = self.magnitudes[self.layer], self._before()
        jobs = layer_jobs(item, shape, self.policy, self.layer, magnitudes, sizes, *before)
        planes = {name: self._planes(step, jobs, name) for name in ("query", "key", "value")}
        for name, place in planes.items():
            self._quantize(step, jobs, name, place, step.features[getattr(item, name)])
        self._attention(step, jobs, planes)

    def _before(self) -> tuple[int, int]:
        """Tokens of the layer that are there already, and how many keys are seen at the end."""
        return 0, 0

    def _choose(self, step: Step, item: Attend) -> None:
        """What a layer has to say before it begins."""
        if item.keep_heads is not None:
            self._select(step, Score.HEADS, item.heads, item.keep_heads)

    def _planes(self, step: Step, jobs: LayerJobs, name: str, rows: int | None = None) -> Planes:
        """Room for planes, of the tokens of this program unless `rows` are given."""
        operands, rows = getattr(jobs, name), rows or jobs.tokens
        bits = operands.bits + (LOW_BITS if operands.split else 0)
        heads = jobs.item.heads if name == "query" else jobs.item.kv_heads
        place = step.memory.area(f"layer {self.layer} {name}", "planes", heads * rows * row_bytes(jobs.head_size, bits))
        return Planes(*place, operands, heads, jobs.head_size, rows)

    def _first_row(self, name: str) -> int:
        """Row of the planes where those of this program begin."""
        return 0

    def _quantize(self, step: Step, jobs: LayerJobs, name: str, planes: Planes, source: Feature) -> None:
        """Rows of operands become planes."""
        steps = planes.operands.inverse.astype("<f4").tobytes()
        fields = planes.fields(self._first_row(name)) | {
            "rows": jobs.tokens,
            "heads": planes.heads,
            "group": jobs.item.heads // planes.heads,
            "head_size": planes.head_size,
            "bits": planes.operands.bits,
            "split": int(planes.operands.split),
            "src_addr": source.address,
            "src_stride": source.words * step.arch.beat_bytes,
            "steps_addr": constant(step, f"{source.name} (steps)", steps),
        }
        reads, writes = [step.em.pixels(source, 0, source.n)], [planes.region]
        self._recorded(Job.QUANTIZE, service(step, Job.QUANTIZE, fields, reads, writes), fields, planes)

    def gather(self, step: Step, group: Group) -> None:
        """Select tokens by their importance, and copy their rows one behind the other."""
        source, target = step.features[group.main.input], step.features[group.main.output]
        if not group.main.again:
            self.indices = self._select(step, Score.TOKENS, source.n, target.n)
            self.selected.append((self.indices.address, self.layer + 1))
        row = source.words * step.arch.beat_bytes
        fields = {
            "rows": target.n,
            "row_beats": source.words,
            "index_addr": self.indices.address,
            "src_addr": source.address,
            "src_stride": row,
            "dst_addr": target.address,
            "dst_stride": row,
        }
        reads = [self.indices.region, step.em.pixels(source, 0, source.n)]
        address = service(step, Job.GATHER, fields, reads, [step.em.pixels(target, 0, target.n)])
        self._recorded(Job.GATHER, address, fields)

    def _attention(self, step: Step, jobs: LayerJobs, planes: dict[str, Planes]) -> None:
        item, target = jobs.item, step.features[jobs.item.output]
        hidden, masks = self._hidden(step)
        fields = (
            jobs.fields
            | hidden
            | {
                "importance": int(self._counts()),
                "out_addr": target.address,
                "out_stride": target.words * step.arch.beat_bytes,
                "heads_addr": constant(step, f"{item.output} (head records)", jobs.records),
            }
        )
        for name, letter in (("query", "q"), ("key", "k"), ("value", "v")):
            found = planes[name].fields()
            fields |= {f"{letter}_addr": found["msb_addr"], f"{letter}_stride": found["msb_stride"]}
            if name != "query":
                fields |= {f"{letter}_low_addr": found["low_addr"], f"{letter}_low_stride": found["low_stride"]}
        check_job(fields, step.arch.attention)
        address = constant(step, f"{item.output} (job)", pack(JOB, JOB_BYTES, fields))
        reads = [*(one.region for one in planes.values()), *masks]
        run(step, Job.ATTENTION, address, reads, [step.em.pixels(target, 0, target.n)])
        self._recorded(Job.ATTENTION, address, fields)

    def _counts(self) -> bool:
        """Whether what importance comes to is asked for later."""
        return any(before != after for before, after in pairwise(self.kept[self.layer :]))

    def _hidden(self, step: Step) -> tuple[dict[str, int], list[Region]]:
        """Fields of the mask of a layer's keys, and what is read for it."""
        return {"masked": 0, "mask_addr": 0}, []

    def _recorded(self, job: Job, address: int, fields: dict[str, int], planes: Planes | None = None) -> None:
        """A job has its descriptor at an address."""
        self.sized.append(Sized(address, job, fields, self.layer))

    def _select(self, step: Step, score: Score, length: int, keep: int) -> Area:
        """The index list of those that survive."""
        name = f"layer {self.layer} {score.name.lower()}"
        indices = Area(*step.memory.area(name, "indices", INDEX_BYTES * keep))
        tokens = score == Score.TOKENS
        recent = self.policy.recent if tokens and self._causal(step) else 0
        fields = {
            "score": score,
            "length": length,
            "keep": keep,
            "first": min(self.policy.protect_first, length) if tokens else 0,
            "protected": int(recent > 0),
            "compact": int(tokens),
            "dropped": 0,
            "protect_addr": constant(step, name, recent_bits(length, recent)) if recent else 0,
            "index_addr": indices.address,
        }
        address = service(step, Job.SELECT, fields, [], [indices.region])
        if tokens:
            self._recorded(Job.SELECT, address, fields)
        return indices

    def _causal(self, step: Step) -> bool:
        return any(item.causal for item in step.graph.operators if isinstance(item, Attend))


def service(step: Step, job: Job, fields: dict[str, int], reads: list[Region], writes: list[Region]) -> int:
    """Record a job beside attention; gives the address of its descriptor."""
    check_service(job, fields, step.arch.attention)
    address = constant(step, f"{job.name} descriptor", pack_service(job, fields))
    run(step, job, address, reads, writes)
    return address


def run(step: Step, job: Job, address: int, reads: Sequence[Region] = (), writes: Sequence[Region] = ()) -> None:
    """Record a job whose descriptor is at an address."""
    step.em.recorder.add(command(Opcode.ATTEND, job=job, addr=address), reads=reads, writes=[*writes, STATE])


def constant(step: Step, name: str, data: bytes) -> int:
    """Address of bytes that the host writes once."""
    address, _ = step.memory.area(name, "descriptor", len(data))
    step.data.append((address, data))
    return address
