"""Pass 5: tiles -> instructions. Each instruction declares what it reads and writes; tokens follow from that."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil

from hwgen.arch import INSTRUCTION_BYTES, Arch
from hwgen.arch.commands import command
from hwgen.arch.isa import Dataflow, Format, Opcode, Operation, Target, load_opcode
from scheduler.describe import describe
from scheduler.hazards import Recorder, Region
from scheduler.passes.place import check_space, input_ports, output_ports
from scheduler.passes.tile import INDEX_WORDS, act_row_words
from scheduler.program import Heading, Program, Segment
from scheduler.scratchpad import Accumulators, Pool, Ring
from scheduler.state import Layer, Lowering, Plan, Step, Weights
from scheduler.vectors import as_one_row


def run(state: Lowering) -> Lowering:
    """Fill in `program`."""
    emitter = _Emitter(state)
    headings = []
    for layer in state.layers:
        headings.append(Heading(len(emitter.recorder.commands), layer.name, describe(state, layer)))
        emitter.layer(layer)
    commands = emitter.recorder.finish((1 << state.arch.control.token_bits) - 1)
    unit = max(INSTRUCTION_BYTES, state.arch.beat_bytes)
    start = ceil(state.memory.end / unit) * unit
    # The program is read in whole beats, so its last one must be there even if an instruction fills half of it.
    size = ceil(INSTRUCTION_BYTES * len(commands) / unit) * unit
    check_space(state.arch, start + size, f"the program itself ({size:,} bytes)")
    program = Program(
        arch=state.arch,
        commands=commands,
        program_address=start,
        segments=(*state.memory.segments, Segment("program", "program", start, size)),
        inputs=input_ports(state),
        outputs=output_ports(state),
        headings=tuple(headings),
    )
    return replace(state, program=program)


@dataclass(frozen=True)
class _Tile:
    """One output tile: its place in the grid, its extent, and where its sums are."""

    row: int
    col: int
    start_row: int
    rows: int
    start_word: int
    words: int
    acc: int
    half: int

    @property
    def region(self) -> Region:
        return Region("acc", self.acc, self.acc + self.rows * self.words)


def _grid(plan: Plan) -> Iterator[tuple[int, int]]:
    """(row tile, column tile) in the plan's loop order."""
    outer, inner = plan.row_tiles, plan.col_tiles
    if plan.outer == "cols":
        outer, inner = inner, outer
    for start in range(0, outer, plan.panel):
        for passing in range(inner):
            for held in range(start, min(start + plan.panel, outer)):
                yield (held, passing) if plan.outer == "rows" else (passing, held)


class _Emitter:
    """Walks the layers and records instructions; scratchpad rings run on from layer to layer."""

    def __init__(self, state: Lowering) -> None:
        self.state = state
        self.arch: Arch = state.arch
        self.recorder = Recorder()
        self.act_ring = Ring(state.arch.scratchpads.act_depth)
        self.wgt_ring = Ring(state.arch.scratchpads.wgt_depth, INDEX_WORDS)
        self.accumulators = Accumulators(state.arch)

    def layer(self, layer: Layer) -> None:
        """Record all tiles of a layer."""
        plan = self.state.plans[layer.name]
        self.plan = plan
        self.accumulators.begin(plan, layer)
        if plan.dataflow is not None:
            act = self.act_ring.take(plan.act_words * plan.act_slots)
            wgt = self.wgt_ring.take(plan.wgt_words * plan.wgt_slots)
            self.act = Pool(act, plan.act_words, plan.act_slots)
            self.wgt = Pool(wgt, plan.wgt_words, plan.wgt_slots)
        for number, (row, col) in enumerate(_grid(plan)):
            tile = self._tile(layer, number, row, col)
            if layer.weight is None:
                self._load_operands(layer.input, tile, tile.acc)
            else:
                for depth in range(plan.depth_tiles):
                    self._multiply(layer, tile, depth)
            for step in layer.steps:
                self._step(step, tile)
            self._store(layer, tile)

    def _tile(self, layer: Layer, number: int, row: int, col: int) -> _Tile:
        plan, output = self.plan, self.state.buffers[layer.output]
        words = ceil(output.cols / self.arch.array.cols)
        acc, half = self.accumulators.result(number)
        return _Tile(
            row=row,
            col=col,
            start_row=row * plan.row_tile,
            rows=min(plan.row_tile, output.rows - row * plan.row_tile),
            start_word=col * plan.tile_cols,
            words=min(plan.tile_cols, words - col * plan.tile_cols),
            acc=acc,
            half=half,
        )

    def _multiply(self, layer: Layer, tile: _Tile, depth: int) -> None:
        """One TENSOR instruction, with the loads that it needs before it."""
        weights = self.state.weights[layer.name]
        wgt = self._weights(layer, weights, tile.col, depth)
        act = self._activations(layer, tile, depth)
        plan, sparse = self.plan, weights.pattern is not None
        groups = self.state.memory.chunks[layer.name][tile.col, depth].groups
        stationary = plan.dataflow == Dataflow.WEIGHT_STATIONARY
        first, last = depth == 0, stationary or depth == plan.depth_tiles - 1
        item = command(
            Opcode.TENSOR,
            dataflow=plan.dataflow,
            sparse=sparse,
            first=first,
            last=last,
            n=weights.pattern.n if sparse else 0,
            m=weights.pattern.m if sparse else 0,
            tile_cols=tile.words,
            tile_rows=1 if stationary else ceil(tile.rows / self.arch.array.rows),
            groups=groups,
            rows=tile.rows,
            act_addr=act.start,
            act_stride=0 if stationary else self._row_words(layer, depth),
            wgt_addr=wgt.start,
            acc_addr=tile.acc,
            acc_stride=tile.words,
        )
        reads = [act, wgt, *([replace(wgt, space="idx")] if sparse else [])]
        reads += [tile.region] if stationary and not first else []
        self.recorder.add(item, reads=reads, writes=[tile.region] if last else [])

    def _depth(self, layer: Layer, depth: int) -> int:
        """Values of the reduction in depth tile `depth`."""
        return min(self.plan.depth_tile, self.state.buffers[layer.input].cols - depth * self.plan.depth_tile)

    def _row_words(self, layer: Layer, depth: int) -> int:
        return act_row_words(self.arch, self.plan.group, self._depth(layer, depth))

    def _weights(self, layer: Layer, weights: Weights, col: int, depth: int) -> Region:
        """Words that hold a chunk of weights; records LOAD WGT (and IDX) unless they hold it already."""
        chunk, lanes = self.state.memory.chunks[layer.name][col, depth], self.arch.array.lanes
        address, held = self.wgt.get((col, depth))
        region = Region("wgt", address, address + chunk.words)
        if not held:
            beats = chunk.words * lanes
            self._load(Target.WGT, address, 1, beats, chunk.values, 0, writes=[region])
            if weights.pattern is not None:
                beats = ceil(beats / 4)
                index = Region("idx", address, address + beats * 4 // lanes)
                self._load(Target.IDX, address, 1, beats, chunk.indices, 0, writes=[index])
        return region

    def _activations(self, layer: Layer, tile: _Tile, depth: int) -> Region:
        """Words that hold a block of activations; records the LOAD unless they hold it already."""
        plan, array = self.plan, self.arch.array
        place = self.state.memory.placements[layer.input]
        address, held = self.act.get((tile.row, depth))
        values = self._depth(layer, depth)
        if plan.dataflow == Dataflow.OUTPUT_STATIONARY:
            words = stride = self._row_words(layer, depth)
            fields = {"target": Target.ACT_ROWS, "stride": stride}
            size = ceil(tile.rows / array.rows) * stride
        else:
            words = ceil(array.rows * plan.group / array.cols)
            fields = {"target": Target.ACT_CHUNKS, "chunk_log2": plan.group.bit_length() - 1, "stride": 0}
            size = ceil(tile.rows * plan.group / array.cols)
        region = Region("act", address, address + size)
        if not held:
            beats = ceil(values / array.cols)
            start = place.address + tile.start_row * place.row_stride + depth * plan.depth_tile * 2
            self._load(
                addr=address,
                rows=tile.rows,
                beats=beats,
                dram_addr=start,
                row_stride=place.row_stride,
                pad=words - beats,
                writes=[region],
                **fields,
            )
        return region

    def _load_operands(self, buffer: str, tile: _Tile, address: int) -> Region:
        """Record LOAD or FILL ACC16 of the part of a buffer that lies under a tile."""
        place, beat = self.state.memory.placements[buffer], self.arch.beat_bytes
        region = Region("acc", address, address + tile.rows * tile.words)
        start = place.address + tile.start_row * place.row_stride + tile.start_word * beat
        self._load(
            Target.ACC16, address, tile.rows, tile.words, start, place.row_stride, stride=tile.words, writes=[region]
        )
        return region

    def _load(
        self,
        target: Target,
        addr: int,
        rows: int,
        beats: int,
        dram_addr: int,
        row_stride: int,
        *,
        writes: list[Region],
        **fields: int,
    ) -> None:
        item = command(
            load_opcode(self.arch, target),
            target=target,
            addr=addr,
            rows=rows,
            beats=beats,
            dram_addr=dram_addr,
            row_stride=row_stride,
            **fields,
        )
        stop = dram_addr + (rows - 1) * row_stride + beats * self.arch.beat_bytes
        self.recorder.add(item, reads=[Region("dram", dram_addr, stop)], writes=writes)

    def _step(self, step: Step, tile: _Tile) -> None:
        """One VECTOR instruction in place, with the load of what it adds before it."""
        fields = {"operation": Operation.COPY, "rows": tile.rows, "words": tile.words}
        fields |= {"x_addr": tile.acc, "x_stride": tile.words, "d_addr": tile.acc, "d_stride": tile.words}
        reads = [tile.region]
        if step.kind == "bias":
            addend, held = self.accumulators.biases[tile.half].get((step.operand, tile.col))
            region = Region("acc", addend, addend + tile.words)
            if not held:
                start = self.state.memory.biases[step.operand] + 2 * tile.start_word * self.arch.beat_bytes
                self._load(Target.ACC32, addend, 1, 2 * tile.words, start, 0, writes=[region])
            fields |= {"operation": Operation.ADD, "y_addr": addend, "y_stride": 0}
            reads.append(region)
        elif step.kind == "add":
            addend, held = self.accumulators.addends[tile.half].get((step.operand, tile.row, tile.col))
            region = Region("acc", addend, addend + tile.rows * tile.words)
            if not held:
                self._load_operands(step.operand, tile, addend)
            fields |= {"operation": Operation.ADD, "y_addr": addend, "y_stride": tile.words}
            reads.append(region)
        item = command(Opcode.VECTOR, relu=step.relu, **as_one_row(fields))
        self.recorder.add(item, reads=reads, writes=[tile.region])

    def _store(self, layer: Layer, tile: _Tile) -> None:
        place, array = self.state.memory.placements[layer.output], self.arch.array
        beats = 2 if place.buffer.fp32 else 1
        start = place.address + tile.start_row * place.row_stride + tile.start_word * beats * self.arch.beat_bytes
        end_word = tile.start_word + tile.words
        item = command(
            Opcode.STORE,
            format=Format.FP32 if place.buffer.fp32 else Format.OPERAND,
            lanes=min(array.cols, place.buffer.cols - (end_word - 1) * array.cols),
            addr=tile.acc,
            stride=tile.words,
            rows=tile.rows,
            words=tile.words,
            dram_addr=start,
            row_stride=place.row_stride,
        )
        stop = start + (tile.rows - 1) * place.row_stride + tile.words * beats * self.arch.beat_bytes
        self.recorder.add(item, reads=[tile.region], writes=[Region("dram", start, stop)])
