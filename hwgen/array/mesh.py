"""The array: rows of processing elements between straight words at its edges."""

from amaranth.hdl import Cat, Const, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch import Arch
from hwgen.array.row import ElementRow, RowHead
from hwgen.array.words import CommandLayout, ElementShape, WeightLayout, hop_limit
from hwgen.lib.pipeline import Skew
from hwgen.lib.shapes import LoadBeat
from hwgen.lib.shared import Shared


class Mesh(wiring.Component):
    """`rows` x `cols` processing elements with their activation banks.

    A command reaches row r after r x `hop` cycles; weights and sums move a row a cycle. Words at the north and south
    edge are straight: column c is skewed by c cycles inside.

    Timing
    ------
    With a command at cycle t: `weight` must be given at t + RowHead.LATENCY, `north` at t + RowHead.LATENCY +
    read_stage. A result that leaves the last row is a straight word on `south` `south_latency` cycles after the last
    row's control. `tail` is the command of the last row.

    Members
    -------
    command : In(CommandLayout), hop : In
    load : In(LoadBeat), load_valid : In(1)   Beats for the activation banks.
    weight : In(cols x WeightLayout), north : In(cols x 32)
    south : Out(links x cols x 32)   A word of every link; earlier sums and emitted ones use link 0.
    tail : Out(CommandLayout)
    """

    def __init__(self, *, arch: Arch) -> None:
        self.arch, self.shape = arch, ElementShape.of(arch)
        self.weight_bits = WeightLayout(self.shape).size
        cols, command = arch.array.cols, CommandLayout(arch)
        super().__init__(
            {
                "command": In(command),
                "hop": In(range(hop_limit(arch) + 1)),
                "load": In(LoadBeat(arch)),
                "load_valid": In(1),
                "weight": In(self.weight_bits * cols),
                "north": In(32 * cols),
                "south": Out(32 * cols * self.shape.links),
                "tail": Out(command),
            }
        )

    @property
    def south_latency(self) -> int:
        """Cycles from control at the last row's first element driving its south link to the straight word."""
        return self.arch.array.cols

    def elaborate(self, platform: object) -> Module:
        """Skew, rows from north to south, straighten."""
        m = Module()
        cols, links = self.arch.array.cols, self.shape.links
        m.submodules.weight_skew = weight_skew = Shared(Skew, width=self.weight_bits, columns=cols)
        m.submodules.north_skew = north_skew = Shared(Skew, width=32, columns=cols)
        m.submodules.south_skew = south_skew = Shared(Skew, width=32 * links, columns=cols, reverse=True)
        m.d.comb += [
            weight_skew.i.eq(self.weight),
            north_skew.i.eq(self.north),
            *(
                self.south.word_select(link * cols + column, 32).eq(south_skew.o.word_select(column * links + link, 32))
                for link in range(links)
                for column in range(cols)
            ),
        ]

        command, weight = self.command, weight_skew.o
        unused = Const(0, 32 * (links - 1))
        total = Cat(*(Cat(north_skew.o.word_select(column, 32), unused) for column in range(cols)))
        for index in range(self.arch.array.rows):
            m.submodules[f"head_{index}"] = head = Shared(RowHead, arch=self.arch)
            m.submodules[f"row_{index}"] = row = Shared(ElementRow, shape=self.shape, cols=cols)
            m.d.comb += [
                head.row.eq(index),
                head.hop.eq(self.hop),
                head.i_command.eq(command),
                head.load.eq(self.load),
                head.load_valid.eq(self.load_valid),
                row.i_act.eq(head.act),
                row.i_control.eq(head.control),
                row.i_weight.eq(weight),
                row.i_sum.eq(total),
                self.tail.eq(command),
            ]
            command, weight, total = head.o_command, row.o_weight, row.o_sum
        m.d.comb += south_skew.i.eq(total)
        return m
