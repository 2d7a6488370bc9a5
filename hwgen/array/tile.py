"""A tensor instruction with everything derived from it, and its admission into the array's sequencers."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch import Arch
from hwgen.arch.isa import Cause, Dataflow, Opcode, Walk
from hwgen.array.words import hop_limit, index_width
from hwgen.lib.shapes import PC_BITS, WORD_BITS, CommandLayout, operand_layout


class TileLayout(data.StructLayout):
    """One tensor instruction as the sequencers use it.

    stationary, dense, first, last, groups, rows, addresses : as in the instruction
    group : activations of a group (G). words : weight words of a group and column block (K).
    steps : groups the array works through: `groups` (output stationary) or `rows` (weight stationary).
    fetches : activation words of each ring. ring_log2 : log2 of the ring's values.
    page : weight buffer page. same : results go to the same words as those of the tile before.
    act_addr, act_stride : in activation words, whatever the walk.
    run : as in the instruction. act_jump : activation words skipped after each `run`, 0 without an ACT walk.
    step, leap : weight words from one word of the reduction to the next, inside a run of groups and to the next run.
    col_step, col_run, col_jump : as in the instruction, or those of contiguous weights without a WGT walk.
    """

    def __init__(self, arch: Arch) -> None:
        walk, act_bits = operand_layout(Opcode.TENSOR), WORD_BITS + part_bits(arch)
        super().__init__(
            {
                "pc": PC_BITS,
                "stationary": 1,
                "dense": 1,
                "first": 1,
                "last": 1,
                "page": 1,
                "same": 1,
                "group": 5,
                "words": 5,
                "tile_cols": 5,
                "tile_rows": 5,
                "ring_log2": index_width(index_width(arch.array.act_buffer) + 1),
                "groups": 16,
                "rows": 16,
                "steps": 16,
                "fetches": 21,
                "act_addr": act_bits,
                "act_stride": act_bits,
                "wgt_addr": WORD_BITS,
                "acc_addr": WORD_BITS,
                "acc_stride": WORD_BITS,
                "act_jump": walk["jump"].width,
                "leap": walk["jump"].width + 1,
                **{name: walk[name].width for name in ("run", "step", "col_step", "col_run", "col_jump")},
            }
        )


def part_bits(arch: Arch) -> int:
    """Bits that number the activation words of a word of operands."""
    return (arch.array.cols // arch.array.act_width).bit_length() - 1


class TileAdmission(wiring.Component):
    """Checks tensor instructions and lets them into the sequencers, in order.

    A tile whose hop differs from that of the tiles under way waits until those have ended, one whose ring size differs
    until their beats have entered the array; others follow without a gap.

    Timing
    ------
    An instruction is admitted three cycles after it was taken, at best.

    Members
    -------
    command : In(stream of CommandLayout)
    tiles : Out(stream of TileLayout)
    hop : Out               Cycles between rows, of the tiles under way.
    ended : In(1)           All tiles admitted so far have ended.
    error : Out(1)          The instruction `pc` breaks a rule (BAD_FIELD). Stays until reset.
    issued : In(1)          All beats of the tiles admitted so far have entered the array.
    changing : Out(1)       A tile waits for those under way.
    busy : Out(1)           An instruction is being looked at.
    """

    def __init__(self, *, arch: Arch) -> None:
        self.arch = arch
        super().__init__(
            {
                "command": In(stream.Signature(CommandLayout())),
                "tiles": Out(stream.Signature(TileLayout(arch))),
                "hop": Out(range(hop_limit(arch) + 1), init=1),
                "ended": In(1),
                "issued": In(1),
                "error": Out(1),
                "pc": Out(PC_BITS),
                "changing": Out(1),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Take, derive, check, hand over."""
        m = Module()
        command = Signal(CommandLayout())
        layout = operand_layout(Opcode.TENSOR)
        ops = data.View(layout, command.operands[: layout.size])
        tile = Signal(TileLayout(self.arch))
        previous = Signal(TileLayout(self.arch))
        hop = Signal.like(self.hop)
        legal, ready = Signal(), Signal()
        ring_log2 = self._ring_log2(m, ops.tile_rows)
        m.d.comb += [self.tiles.payload.eq(tile), self.pc.eq(command.pc), self.busy.eq(1)]
        with m.FSM():
            with m.State("TAKE"):
                m.d.comb += [self.command.ready.eq(1), self.busy.eq(0)]
                with m.If(self.command.valid):
                    m.d.sync += command.eq(self.command.payload)
                    m.next = "DERIVE"
            with m.State("DERIVE"):
                self._derive(m, ops, tile, previous, hop)
                self._walk(m, ops, tile)
                m.d.sync += tile.ring_log2.eq(ring_log2)
                m.d.sync += legal.eq(self._rules(ops, ring_log2))
                m.next = "CHECK"
            with m.State("CHECK"):
                m.d.comb += self.error.eq(~legal)
                m.d.sync += ready.eq((hop == self.hop) & (tile.ring_log2 == previous.ring_log2))
                with m.If(legal):
                    m.next = "ADMIT"
            with m.State("ADMIT"):
                m.d.comb += [self.tiles.valid.eq(ready), self.changing.eq(~ready)]
                # Fetches and beats reach a row in the order in which they entered, so a ring is free behind the beats.
                with m.If(self.ended):
                    m.d.sync += [self.hop.eq(hop), ready.eq(1)]
                with m.Elif(self.issued & (hop == self.hop)):
                    m.d.sync += ready.eq(1)
                with m.If(self.tiles.valid & self.tiles.ready):
                    m.d.sync += previous.eq(tile)
                    m.next = "TAKE"
        return m

    def _derive(self, m: Module, ops: data.View, tile: data.View, previous: data.View, hop: Signal) -> None:
        """Fill the tile from the instruction."""
        array = self.arch.array
        group, words, steps = Signal(5), Signal(5), Signal(16)
        rotation, total = Signal(5), Signal(21)
        lane_bits = array.lanes.bit_length() - 1
        width_bits = array.act_width.bit_length() - 1
        stationary = ops.dataflow == Dataflow.WEIGHT_STATIONARY
        m.d.comb += [
            group.eq(Mux(ops.sparse, ops.m, array.lanes)),
            words.eq(Mux(ops.sparse, (ops.n + array.lanes - 1) >> lane_bits, 1)),
            steps.eq(Mux(stationary, ops.rows, ops.groups)),
            rotation.eq(Mux(ops.tile_cols > array.chain_latency, ops.tile_cols, array.chain_latency)),
            total.eq(steps * group),
        ]
        fields = ("first", "last", "tile_cols", "tile_rows", "groups", "rows")
        addresses = ("wgt_addr", "acc_addr", "acc_stride")
        repeated = Cat(*(previous[name] == ops[name] for name in ("tile_cols", "acc_addr", "acc_stride"))).all()
        m.d.sync += [
            *(tile[name].eq(ops[name]) for name in fields + addresses),
            tile.pc.eq(self.pc),
            tile.stationary.eq(stationary),
            tile.dense.eq(~ops.sparse),
            tile.same.eq(repeated & previous.stationary),
            tile.page.eq(previous.page ^ stationary),
            tile.group.eq(group),
            tile.words.eq(words),
            tile.steps.eq(steps),
            tile.fetches.eq((total + array.act_width - 1) >> width_bits),
            hop.eq(Mux(stationary, (words - 1) * rotation + array.chain_latency + 1, 1)),
        ]

    def _walk(self, m: Module, ops: data.View, tile: data.View) -> None:
        """Fill in how the tile walks over its operands; without a walk, as over contiguous ones."""
        parts = part_bits(self.arch)
        activations, weights = ops.walk == Walk.ACT, ops.walk == Walk.WGT
        step = Mux(weights, ops.step, ops.tile_cols)
        m.d.sync += [
            *(tile[name].eq(Mux(activations, ops[name], ops[name] << parts)) for name in ("act_addr", "act_stride")),
            tile.run.eq(ops.run),
            tile.act_jump.eq(Mux(activations, ops.jump, 0)),
            tile.step.eq(step),
            tile.leap.eq(step + Mux(weights, ops.jump, 0)),
            tile.col_step.eq(Mux(weights, ops.col_step, 1)),
            tile.col_run.eq(Mux(weights, ops.col_run, ops.tile_cols)),
            tile.col_jump.eq(ops.col_jump),
        ]

    def _ring_log2(self, m: Module, tile_rows: Signal) -> Signal:
        """log2 of act_buffer / tile_rows, rounded down."""
        size = self.arch.array.act_buffer.bit_length() - 1
        result = Signal(range(size + 1))
        m.d.comb += result.eq(size)
        for log2 in range(1, 5):
            with m.If(tile_rows > (1 << (log2 - 1))):
                m.d.comb += result.eq(max(0, size - log2))
        return result

    def _rules(self, ops: data.View, ring_log2: Signal) -> object:
        """Whether the instruction keeps the rules of ISA.md that its field ranges don't."""
        array = self.arch.array
        group = Mux(ops.sparse, ops.m, array.lanes)
        words = Mux(ops.sparse, (ops.n + array.lanes - 1) >> (array.lanes.bit_length() - 1), 1)
        pattern = ~ops.sparse | ((ops.n >= 1) & (ops.n <= ops.m) & (ops.m <= array.group_max))
        output = Cat(
            ops.tile_rows * ops.tile_cols <= array.interleave_max,
            ops.rows <= (ops.tile_rows << (array.rows.bit_length() - 1)),
            (1 << ring_log2) >= group + 2 * array.act_width,
            (ops.walk == Walk.NONE) | (ops.run != 0),
            (ops.walk != Walk.WGT) | (ops.col_run != 0),
        ).all()
        stationary = Cat(
            ops.groups <= array.rows,
            words * ops.tile_cols <= array.weight_buffer,
            ops.tile_cols <= array.interleave_max,
            ops.tile_rows == 1,
            ops.last,
            ops.walk == Walk.NONE,
        ).all()
        return pattern & Mux(ops.dataflow == Dataflow.WEIGHT_STATIONARY, stationary, output)


BAD_TILE = Cause.BAD_FIELD
"""Cause that goes with `TileAdmission.error`."""
