"""A random program while it is drawn: its steps, what they touch, and the contents of external memory they need.

Addresses are drawn over the whole memories, so that steps sometimes share words and must be ordered, and sometimes
overlap in time. The accesses of every step are noted for `sim.random.dependencies`.
"""

from dataclasses import dataclass

import numpy as np

from hwgen.arch import Arch
from hwgen.arch.commands import command
from hwgen.arch.isa import Opcode, Target, load_opcode
from sim.random.data import fp32_bytes, index_bytes, operand_bytes
from sim.random.dependencies import Access, Step

BASES = (0, 1 << 16, 0x00FF_F000)
"""Where the memory image may begin."""
SPARE = 2
"""Words that strides may be longer than what they step over."""
QUAD = 5
"""Beats of four packed slots; the last one holds their indices."""


@dataclass(frozen=True)
class Block:
    """Words of the accumulator scratchpad: `rows` rows of `words`, `stride` apart."""

    addr: int
    rows: int
    words: int
    stride: int

    @property
    def access(self) -> Access:
        """The range from first to last word."""
        return Access("acc", self.addr, self.addr + (self.rows - 1) * self.stride + self.words)


@dataclass(frozen=True)
class Runs:
    """Beats of external memory that a LOAD reads: `rows` rows of `planes` runs of `beats`; strides in beats."""

    rows: int
    planes: int
    beats: int
    row_stride: int
    plane_stride: int

    @property
    def size(self) -> int:
        """Beats from the first to the last."""
        steps = (self.rows - 1) * self.row_stride + (self.planes - 1) * self.plane_stride
        return steps + self.beats if self.beats else 0

    def offsets(self) -> np.ndarray:
        """Beat by beat of every row, in the order in which it is read: `[rows, planes * beats]`."""
        rows, planes = np.arange(self.rows) * self.row_stride, np.arange(self.planes) * self.plane_stride
        return (rows[:, None, None] + planes[:, None] + np.arange(self.beats)).reshape(self.rows, -1)


class Draft:
    """Steps of one program, and what external memory holds before it runs."""

    def __init__(self, arch: Arch, rng: np.random.Generator) -> None:
        self.arch, self.rng = arch, rng
        self.steps: list[Step] = []
        self.contents: list[tuple[int, np.ndarray]] = []
        self.base = int(rng.choice(BASES))
        self.dram_end = self.base
        self.stored: list[tuple[int, int]] = []
        """Address and bytes of what the steps store."""
        self.packed: list[tuple[int, int, int]] = []
        """Address, beats and group size of packed columns among them."""
        self._specials = float(rng.choice([0, 0, 0.02, 0.2]))

    def draw(self, low: int, high: int) -> int:
        """A number in low..high, both included."""
        return int(self.rng.integers(low, high + 1))

    def chance(self, share: float) -> bool:
        """True in a share of cases."""
        return bool(self.rng.random() < share)

    def noise(self, **limits: int) -> dict[str, int]:
        """Now and then random values up to `limits` for fields that an instruction must ignore."""
        return {name: self.draw(0, limit) for name, limit in limits.items()} if self.chance(0.4) else {}

    def place(self, rows: int, words: int) -> Block:
        """A block somewhere in the accumulator scratchpad."""
        stride = words + self.draw(0, SPARE)
        extent = (rows - 1) * stride + words
        return Block(self.draw(0, self.arch.scratchpads.acc_depth - extent), rows, words, stride)

    def usable(self, group: int) -> list[tuple[int, int, int]]:
        """Packed columns whose indices are below `group`."""
        return [one for one in self.packed if one[2] <= group]

    def allocate(self, size: int) -> int:
        """Address of fresh bytes of external memory."""
        beat = self.arch.beat_bytes
        address = self.dram_end + self.draw(0, 5) * beat
        self.dram_end = address + -(-size // beat) * beat
        return address

    def add(self, opcode: Opcode, reads: list[Access], writes: list[Access], **fields: int) -> None:
        """Append an instruction."""
        self.steps.append(Step(command(opcode, **fields), reads, writes))

    def load_acc(self, block: Block) -> None:
        """Fill a block of accumulator words from external memory."""
        target, beats = (Target.ACC16, block.words) if self.chance(0.5) else (Target.ACC32, 2 * block.words)
        self.load(target, block.addr, block.stride, [block.access], rows=block.rows, beats=beats)

    def load(
        self,
        target: Target,
        addr: int,
        stride: int,
        touched: list[Access],
        *,
        beats: int,
        rows: int = 1,
        group: int = 0,
        **fields: int,
    ) -> None:
        """Append a LOAD or FILL of `rows` rows of `beats` beats, zeros among them; indices are below `group`."""
        packed = self.usable(group) if target is Target.PACKED else []
        if packed and self.chance(0.7):
            source, runs = self._stored_again(packed, rows, beats)
        else:
            source, runs = self._fresh(target, rows, beats, group)
        beat = self.arch.beat_bytes
        fields = {**self.noise(chunk_log2=6), **fields, "pad": beats - runs.planes * runs.beats}
        fields |= {"target": target, "addr": addr, "stride": stride, "rows": rows, "beats": runs.beats}
        fields |= {"dram_addr": source, "row_stride": runs.row_stride * beat}
        fields |= {"planes": runs.planes, "plane_stride": runs.plane_stride * beat}
        reads = [Access("dram", source, source + runs.size * beat)] if runs.size else []
        opcode = load_opcode(self.arch, target)
        if opcode != Opcode.LOAD and self.chance(0.5):
            opcode = Opcode.LOAD
        self.add(opcode, reads, touched, **fields)

    def _stored_again(self, packed: list[tuple[int, int, int]], rows: int, beats: int) -> tuple[int, Runs]:
        """Address of packed columns that an earlier instruction stored; each row has them as often as they fit."""
        source, length, _ = packed[self.draw(0, len(packed) - 1)]
        return source, Runs(rows, max(1, beats // length), min(beats, length), 0, 0)

    def _fresh(self, target: Target, rows: int, beats: int, group: int) -> tuple[int, Runs]:
        runs = self._runs(target, rows, beats)
        return self._source(target, runs, group), runs

    def _runs(self, target: Target, rows: int, beats: int) -> Runs:
        """Runs whose beats and zeros are `beats` in each row; only those of packed columns never overlap each other."""
        planes = self.draw(2, 4) if self.chance(0.3) else 1
        beats = (beats - (self.draw(0, beats) if self.chance(0.3) else 0)) // planes
        run = beats + self.draw(0, 3)
        inner, outer = planes * run + self.draw(0, 3), rows * run + self.draw(0, 3)
        row_stride, plane_stride = (inner, run) if self.chance(0.5) else (run, outer)
        if target is not Target.PACKED and self.chance(0.1):
            plane_stride = self.draw(0, 3)
        return Runs(rows, planes, beats, 0 if self.chance(0.1) else row_stride, plane_stride)

    def _source(self, target: Target, runs: Runs, group: int) -> int:
        """Address of beats to load: now and then something that an earlier instruction stored."""
        size = runs.size * self.arch.beat_bytes
        fitting = [address for address, room in self.stored if room >= size]
        if target not in (Target.IDX, Target.PACKED) and fitting and self.chance(0.3):
            return fitting[self.draw(0, len(fitting) - 1)]
        address = self.allocate(size)
        if target is Target.IDX:
            data = index_bytes(self.rng, size, group)
        elif target in (Target.ACC32, Target.CURVE):
            data = fp32_bytes(self.rng, size // 4, self._specials)
        else:
            data = operand_bytes(self.rng, size // 2, self.arch.array.operand, self._specials)
        if target is Target.PACKED:
            offsets = runs.offsets()
            places = offsets[:, QUAD - 1 :: QUAD].ravel()
            indices = index_bytes(self.rng, len(places) * self.arch.beat_bytes, group)
            data = data.reshape(-1, self.arch.beat_bytes)
            data[places] = indices.reshape(data[places].shape)
        self.contents.append((address, data.ravel()))
        return address
