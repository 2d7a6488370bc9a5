"""The N:M reducer (SORE): a stream of columns of weights in, packed slots out."""

from amaranth.hdl import Cat, Module, Mux, ResetInserter, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch import Arch
from hwgen.lib.shared import Shared
from hwgen.lib.streams import SkidBuffer
from hwgen.reducer.column import PAGES, STYLES, ReducerColumn
from hwgen.reducer.packer import SlotPacker


class Beat(data.StructLayout):
    """A beat of operands; `end`: it is the last of its sequence."""

    def __init__(self, arch: Arch) -> None:
        super().__init__({"data": arch.memory.data_bits, "end": 1})


class Reducer(wiring.Component):
    """Of every `m` values of a column, keeps the `n` of largest magnitude, as ISA.md says for PACKED.

    The sequences of beats that come in are whole groups. Every group gives `n` slots, rounded up to a multiple of
    `lanes`, all columns side by side; what it gives does not depend on `arch.reducer.style`.

    Timing
    ------
    One beat a cycle in and out, as long as the 5 beats out of every four slots permit: a group takes m cycles, or
    5/4 of its slots if that is more. The first slot of a group is offered `latency(n)` cycles after its last value was
    taken, if the slots before have left.

    Parameters
    ----------
    arch : Arch

    Members
    -------
    i : In(stream of Beat)
    n, m : In(5)     May change while not `busy`.
    o : Out(stream of beat)   Four beats of values, one of indices, and so on; every sequence starts anew.
    busy : Out(1)    Something is inside.
    clear : In(1)    Forget it.
    """

    def __init__(self, arch: Arch) -> None:
        self._arch = arch
        self._style = arch.reducer.style
        super().__init__(
            {
                "i": In(stream.Signature(Beat(arch))),
                "n": In(5),
                "m": In(5),
                "o": Out(stream.Signature(arch.memory.data_bits)),
                "busy": Out(1),
                "clear": In(1),
            }
        )

    def latency(self, n: int) -> int:
        """Cycles from the last value of a group to its first slot: ranking, picking, and the output register."""
        return STYLES[self._style][0].latency(n) + 2 + SkidBuffer.LATENCY

    def elaborate(self, platform: object) -> object:
        """Values in, groups from ranking to picking, slots out."""
        m = Module()
        m.submodules.control = control = STYLES[self._style][0](group_max=self._arch.array.group_max)
        m.submodules.packer = packer = SlotPacker(cols=self._arch.array.cols)
        m.submodules.buffer = buffer = SkidBuffer(shape=self._arch.memory.data_bits)
        wiring.connect(m, packer.o, buffer.i)
        wiring.connect(m, buffer.o, wiring.flipped(self.o))
        page, ends = self._take(m, control)
        load, pick, left, pick_page = self._pick(m, control, packer)
        groups, end = Signal(range(PAGES + 1)), Signal()
        leaving = pick & (left == 1)
        m.d.comb += [
            control.step.eq(~control.complete | (left == 0) | leaving),
            load.eq(control.complete & control.step),
            self.busy.eq((control.position != 0) | (groups != 0) | packer.i.valid | packer.busy | buffer.o.valid),
        ]
        m.d.sync += groups.eq(groups + (control.take & control.last) - leaving)
        with m.If(pick):
            m.d.sync += end.eq(leaving & ends.bit_select(pick_page, 1))

        values, indices = [], []
        for number in range(self._arch.array.cols):
            column = Shared(ReducerColumn, style=self._style, group_max=self._arch.array.group_max)
            m.submodules[f"column_{number}"] = column
            m.d.comb += [
                column.i.eq(self.i.payload.data.word_select(number, 16)),
                column.write.eq(control.take),
                column.write_page.eq(page),
                column.position.eq(control.position),
                column.steps.eq(control.steps),
                column.load.eq(load),
                column.pick.eq(pick),
                column.pick_page.eq(pick_page),
            ]
            values.append(column.value)
            indices.append(column.index)
        m.d.comb += packer.i.payload.eq(Cat(*values, *indices, end))
        return ResetInserter(self.clear)(m)

    def _take(self, m: Module, control: wiring.Component) -> tuple[Value, Value]:
        """Number values in their group; gives the page of this group, and which pages hold the last of a sequence."""
        position, page, ends = Signal.like(control.position), Signal(range(PAGES)), Signal(PAGES)
        m.d.comb += [
            self.i.ready.eq(control.step),
            control.take.eq(self.i.valid & self.i.ready),
            control.position.eq(position),
            control.first.eq(position == 0),
            control.last.eq(position == self.m - 1),
            control.n.eq(self.n),
            control.m.eq(self.m),
        ]
        with m.If(control.take):
            m.d.sync += position.eq(Mux(control.last, 0, position + 1))
            with m.If(control.last):
                m.d.sync += [page.eq(page + 1), ends.bit_select(page, 1).eq(self.i.payload.end)]
        return page, ends

    def _pick(self, m: Module, control: wiring.Component, packer: SlotPacker) -> tuple[Signal, Signal, Signal, Signal]:
        """Pick the slots of a group one by one; gives `load` to be driven, `pick`, slots left, and the group's page."""
        lanes = self._arch.array.lanes
        load, pick = Signal(), Signal()
        left, page = Signal(range(self._arch.array.group_max + lanes)), Signal(range(PAGES), init=PAGES - 1)
        m.d.comb += pick.eq((left != 0) & (~packer.i.valid | packer.i.ready))
        with m.If(packer.i.ready):
            m.d.sync += packer.i.valid.eq(0)
        with m.If(pick):
            m.d.sync += [packer.i.valid.eq(1), left.eq(left - 1)]
        with m.If(load):
            m.d.sync += [left.eq((self.n + lanes - 1) & ~(lanes - 1)), page.eq(page + 1)]
        return load, pick, left, page
