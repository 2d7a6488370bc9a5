"""Walk over the words of a STORE in any of its orders: four loops around an address."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.lib.shapes import WORD_BITS
from hwgen.memory.walk import COUNT_BITS

LOOPS = 4


class Nest(data.StructLayout):
    """Loops from the innermost to the outermost: how often each goes round, and the words from round to round."""

    def __init__(self) -> None:
        loop = data.StructLayout({"count": COUNT_BITS, "step": WORD_BITS})
        super().__init__({"addr": WORD_BITS, "loops": data.ArrayLayout(loop, LOOPS)})


class NestStep(data.StructLayout):
    """A word, and for each loop whether it is in its last round."""

    def __init__(self) -> None:
        super().__init__({"word": WORD_BITS, "last": LOOPS})


class NestWalker(wiring.Component):
    """Visits the words of a nest of loops.

    Timing
    ------
    The first step is offered 1 cycle after the nest has been taken; one step a cycle, also from nest to nest.

    Members
    -------
    i : In(stream of Nest)      All counts at least 1.
    o : Out(stream of NestStep)
    clear : In(1)               Forget the nest under way.
    """

    LATENCY = 1

    i: In(stream.Signature(Nest()))
    o: Out(stream.Signature(NestStep()))
    clear: In(1)

    def elaborate(self, platform: object) -> Module:
        """A count and a first word for each loop; a loop moves on when all inside it have ended."""
        m = Module()
        active, held = Signal(), Signal(Nest(), reset_less=True)
        do_step, do_nest = self.o.valid & self.o.ready, self.i.valid & self.i.ready
        last, nest = self.o.payload.last, self.i.payload
        m.d.comb += [self.o.valid.eq(active), self.i.ready.eq(~active | (do_step & last.all()))]
        with m.If(do_nest):
            m.d.sync += [active.eq(1), held.eq(nest)]
        with m.Elif(do_step & last.all()):
            m.d.sync += active.eq(0)
        with m.If(self.clear):
            m.d.sync += active.eq(0)

        starts = [Signal(WORD_BITS, name=f"start_{number}", reset_less=True) for number in range(LOOPS)]
        m.d.comb += self.o.payload.word.eq(starts[0])
        for number, start in enumerate(starts):
            loop, inner_ends = held.loops[number], last[:number].all()
            left = Signal(COUNT_BITS, name=f"left_{number}", reset_less=True)
            following = Signal(WORD_BITS, name=f"following_{number}")
            m.d.comb += [last[number].eq(left == 1), following.eq(start + loop.step)]
            with m.If(do_nest):
                m.d.sync += [left.eq(nest.loops[number].count), start.eq(nest.addr)]
            with m.Elif(do_step & inner_ends):
                m.d.sync += left.eq(left - 1)
                with m.If(last[number]):
                    m.d.sync += left.eq(loop.count)
                with m.Else():
                    m.d.sync += [inner.eq(following) for inner in starts[: number + 1]]
        return m
