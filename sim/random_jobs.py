"""Jobs of random programs: a matrix product with the loads that feed it, vector work on the result, and a store.

Addresses are drawn over the whole memories, so that jobs sometimes share words and must be ordered, and sometimes
overlap in time. The accesses of every step are noted for `sim.dependencies`.
"""

from dataclasses import dataclass

import numpy as np

from hwgen.arch import Arch
from hwgen.arch.isa import INTEGER, READS_Z, Dataflow, Format, Opcode, Operation, Target, command
from sim.dependencies import Access, Step
from sim.random_data import fp32_bytes, index_bytes, operand_bytes

PATTERNS = ((1, 4), (2, 4), (2, 8), (4, 8), (2, 16), None, None, (3, 5), (1, 1), (7, 7), (5, 12))
"""N:M patterns that jobs draw from; None is dense."""
BASES = (0, 1 << 16, 0x00FF_F000)
"""Where the memory image may begin."""


SPARE = 2
"""Words that strides may be longer than what they step over."""


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


class JobBuilder:
    """Collects steps, and the contents of external memory that they need, for one program."""

    def __init__(self, arch: Arch, rng: np.random.Generator) -> None:
        self.arch, self.rng = arch, rng
        self.steps: list[Step] = []
        self.contents: list[tuple[int, np.ndarray]] = []
        self.base = int(rng.choice(BASES))
        self.dram_end = self.base
        self._stored: list[tuple[int, int]] = []
        self._specials = float(rng.choice([0, 0, 0.02, 0.2]))

    def add_job(self) -> None:
        """One product, output or weight stationary, in one to three parts; then vector work and a store."""
        if self.rng.random() < 0.5:
            result = self._output_stationary()
        else:
            result = self._weight_stationary()
        for _ in range(int(self.rng.integers(0, 3))):
            result = self._vector(result)
        self._store(result)

    # Products.

    def _output_stationary(self) -> Block:
        array, parts = self.arch.array, self._draw(1, 3)
        patterns = [self._pattern() for _ in range(parts)]
        room = max(self._group(pattern) for pattern in patterns) + 2 * array.act_width
        rings = [t for t in range(1, 17) if 1 << ((array.act_buffer // t).bit_length() - 1) >= room]
        tile_rows = self._draw(1, min(rings[-1], array.interleave_max))
        tile_cols = self._draw(1, array.interleave_max // tile_rows)
        rows = self._draw(1, min(tile_rows * array.rows, self.arch.scratchpads.acc_depth // (tile_cols + SPARE)))
        result = self._place(rows, tile_cols)
        for part, pattern in enumerate(patterns):
            groups = self._draw(1, self._most_groups(pattern, tile_rows, tile_cols))
            words = -(-groups * self._group(pattern) // array.cols)
            stride = words + self._draw(0, SPARE)
            act = self._act_rows(words, stride, tile_rows, self._draw(1, tile_rows * array.rows))
            last = part == parts - 1
            writes = [result.access] if last else []
            shape = {"tile_rows": tile_rows, "rows": rows, "act_addr": act.low, "act_stride": stride, "last": int(last)}
            weights = self._weights(pattern, groups, tile_cols)
            self._tensor(Dataflow.OUTPUT_STATIONARY, part == 0, result, weights, shape, reads=[act], writes=writes)
        return result

    def _weight_stationary(self) -> Block:
        array, parts = self.arch.array, self._draw(1, 3)
        pattern = self._pattern()
        words = self._words(pattern)
        tile_cols = self._draw(1, min(array.interleave_max, array.weight_buffer // words))
        limit = self.arch.scratchpads.act_depth * array.cols // self._group(pattern)
        rows = self._draw(1, min(40, limit, self.arch.scratchpads.acc_depth // (tile_cols + SPARE)))
        result = self._place(rows, tile_cols)
        continued = self.rng.random() < 0.4
        if continued:
            self._load_acc(result)
        for part in range(parts):
            act = self._act_groups(pattern, rows)
            weights = self._weights(pattern, self._draw(1, array.rows), tile_cols)
            first = part == 0 and not continued
            reads = [act] if first else [act, result.access]
            shape = {"tile_rows": 1, "rows": rows, "act_addr": act.low, "last": 1}
            self._tensor(Dataflow.WEIGHT_STATIONARY, first, result, weights, shape, reads=reads, writes=[result.access])
        return result

    def _tensor(self, dataflow, first, result: Block, weights, shape, *, reads, writes) -> None:
        fields, wgt = weights
        fields = {**fields, **shape, "first": int(first), "tile_cols": result.words}
        fields |= {"acc_addr": result.addr, "acc_stride": result.stride, "dataflow": dataflow}
        self.steps.append(Step(command(Opcode.TENSOR, **fields), [*reads, *wgt], writes))

    # Operands.

    def _weights(self, pattern, groups: int, tile_cols: int) -> tuple[dict[str, int], list[Access]]:
        lanes = self.arch.array.lanes
        words = groups * self._words(pattern) * tile_cols
        per_beat = 4 // lanes
        span = -(-words // per_beat) * per_beat
        addr = self._draw(0, (self.arch.scratchpads.wgt_depth - span) // per_beat) * per_beat
        self._load(Target.WGT, addr, words, [("wgt", addr, addr + words)], beats=words * lanes)
        fields = {"groups": groups, "wgt_addr": addr}
        reads = [Access("wgt", addr, addr + words)]
        if pattern is not None:
            self._load(Target.IDX, addr, 0, [("idx", addr, addr + span)], beats=span // per_beat, group=pattern[1])
            fields |= {"sparse": 1, "n": pattern[0], "m": pattern[1]}
            reads.append(Access("idx", addr, addr + words))
        return fields, reads

    def _act_rows(self, words: int, stride: int, blocks: int, rows: int) -> Access:
        """Load `rows` rows into `blocks` blocks of the banks; returns what a tile that uses all blocks reads."""
        extent = (blocks - 1) * stride + words
        addr = self._draw(0, self.arch.scratchpads.act_depth - extent)
        loaded = ("act", addr, addr + (rows - 1) // self.arch.array.rows * stride + words)
        pad = self._draw(0, words) if self.rng.random() < 0.3 else 0
        self._load(Target.ACT_ROWS, addr, stride, [loaded], rows=rows, beats=words - pad, pad=pad)
        return Access("act", addr, addr + extent)

    def _act_groups(self, pattern, rows: int) -> Access:
        """Load activations for weight-stationary work: in chunks where the group allows it, else in whole rows."""
        group, cols = self._group(pattern), self.arch.array.cols
        extent = -(-rows * group // cols)
        addr = self._draw(0, self.arch.scratchpads.act_depth - extent)
        loaded = ("act", addr, addr + extent)
        if group & (group - 1) or self.rng.random() < 0.3:
            self._load(Target.ACT_ROWS, addr, extent, [loaded], rows=self._draw(1, self.arch.array.rows), beats=extent)
        else:
            beats = self._draw(1, -(-self.arch.array.rows * group // cols) + 1)
            shape = {"rows": rows, "beats": beats, "pad": self._draw(0, 1), "chunk_log2": group.bit_length() - 1}
            self._load(Target.ACT_CHUNKS, addr, 0, [loaded], **shape)
        return Access(*loaded)

    def _load_acc(self, block: Block) -> None:
        """Fill a block of accumulator words from external memory."""
        touched = [("acc", block.access.low, block.access.high)]
        if self.rng.random() < 0.5:
            self._load(Target.ACC16, block.addr, block.stride, touched, rows=block.rows, beats=block.words)
        else:
            pad = self._draw(0, 2 * block.words - 1)
            beats = 2 * block.words - pad
            self._load(Target.ACC32, block.addr, block.stride, touched, rows=block.rows, beats=beats, pad=pad)

    def _load(self, target, addr, stride, touched, *, beats, rows=1, pad=0, chunk_log2=0, group=0) -> None:
        beat = self.arch.beat_bytes
        row_stride = (beats + self._draw(0, 3)) * beat if self.rng.random() < 0.9 else 0
        size = (rows - 1) * row_stride + beats * beat
        source = self._source(target, size, group)
        fields = {"target": target, "chunk_log2": chunk_log2, "addr": addr, "stride": stride, "rows": rows, "pad": pad}
        fields |= {"beats": beats, "dram_addr": source, "row_stride": row_stride}
        reads = [Access("dram", source, source + size)] if size else []
        self.steps.append(Step(command(Opcode.LOAD, **fields), reads, [Access(*item) for item in touched]))

    def _source(self, target: Target, size: int, group: int) -> int:
        """Address of `size` bytes to load: now and then something that an earlier instruction stored."""
        fitting = [address for address, room in self._stored if room >= size]
        if target is not Target.IDX and fitting and self.rng.random() < 0.3:
            return fitting[self._draw(0, len(fitting) - 1)]
        address = self._allocate(size)
        if target is Target.IDX:
            data = index_bytes(self.rng, size, group)
        elif target is Target.ACC32:
            data = fp32_bytes(self.rng, size // 4, self._specials)
        else:
            data = operand_bytes(self.rng, size // 2, self.arch.array.operand, self._specials)
        self.contents.append((address, data))
        return address

    # After the product.

    def _vector(self, x: Block) -> Block:
        operation = Operation(self._draw(0, max(Operation)))
        fields = {"operation": operation, "relu": self._draw(0, 1), "rows": x.rows, "words": x.words}
        fields |= {"shuffle": self._draw(0, self.arch.array.cols.bit_length() - 1)}
        if operation in INTEGER:
            fields |= {"shift": self._draw(0, 31), "right": self._draw(0, 1)}
        sources = {"x": x}
        for name in "" if operation is Operation.COPY else "yz" if operation in READS_Z else "y":
            sources[name] = self._addend(x)
        for name, block in sources.items():
            stride = block.stride if block.rows == x.rows else 0
            fields |= {f"{name}_addr": block.addr, f"{name}_stride": stride, f"{name}_hold": self.rng.random() < 0.2}
        d = x if self.rng.random() < 0.5 else self._place(x.rows, x.words)
        apart = [block for name, block in sources.items() if block != d or fields[f"{name}_hold"]]
        if any(d.access.overlaps(block.access) for block in apart):
            return x
        fields |= {"d_addr": d.addr, "d_stride": d.stride}
        reads = [block.access for block in sources.values()]
        self.steps.append(Step(command(Opcode.VECTOR, **fields), reads, [d.access]))
        return d

    def _addend(self, x: Block) -> Block:
        """Another source of the shape of `x`, or one row that is repeated; mostly with data in it."""
        block = self._place(1 if self.rng.random() < 0.5 else x.rows, x.words)
        if self.rng.random() < 0.8:
            self._load_acc(block)
        return block

    def _store(self, block: Block) -> None:
        kind = Format(self._draw(0, 1))
        width = block.words * self.arch.beat_bytes * (2 if kind is Format.FP32 else 1)
        row_stride = width + self._draw(0, 2) * self.arch.beat_bytes
        size = (block.rows - 1) * row_stride + width
        address = self._allocate(size)
        self._stored.append((address, size))
        fields = {"format": kind, "lanes": self._draw(1, self.arch.array.cols)}
        fields |= {"addr": block.addr, "stride": block.stride}
        fields |= {"rows": block.rows, "words": block.words, "dram_addr": address, "row_stride": row_stride}
        written = Access("dram", address, address + size)
        self.steps.append(Step(command(Opcode.STORE, **fields), [block.access], [written]))

    # Draws.

    def _draw(self, low: int, high: int) -> int:
        """A number in low..high, both included."""
        return int(self.rng.integers(low, high + 1))

    def _pattern(self) -> tuple[int, int] | None:
        usable = [p for p in PATTERNS if p is None or p[1] <= self.arch.array.group_max]
        return usable[self._draw(0, len(usable) - 1)]

    def _group(self, pattern) -> int:
        return self.arch.array.lanes if pattern is None else pattern[1]

    def _words(self, pattern) -> int:
        return 1 if pattern is None else -(-pattern[0] // self.arch.array.lanes)

    def _place(self, rows: int, words: int) -> Block:
        stride = words + self._draw(0, SPARE)
        extent = (rows - 1) * stride + words
        return Block(self._draw(0, self.arch.scratchpads.acc_depth - extent), rows, words, stride)

    def _most_groups(self, pattern, tile_rows: int, tile_cols: int) -> int:
        """Groups whose weights and activations fit; at most 24 sparse or 120 dense ones, to keep programs short."""
        pads, array = self.arch.scratchpads, self.arch.array
        by_weights = pads.wgt_depth // (32 * tile_cols)
        by_activations = (pads.act_depth // tile_rows - SPARE) * array.cols // self._group(pattern)
        return max(1, min(24 if pattern else 120, by_weights, by_activations))

    def _allocate(self, size: int) -> int:
        beat = self.arch.beat_bytes
        address = self.dram_end + self._draw(0, 5) * beat
        self.dram_end = address + -(-size // beat) * beat
        return address
