"""Dense beats of items, given out one by one."""

from amaranth.hdl import Module, ShapeLike, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.pruning.words import DenseBeat


class Single(data.StructLayout):
    """An item; `last` ends the sequence; none : it had no items, and this is not one."""

    def __init__(self, shape: ShapeLike) -> None:
        super().__init__({"item": shape, "last": 1, "none": 1})


class OneByOne(wiring.Component):
    """Gives the items of beats in their order; a sequence without items gives one `Single` with `none`.

    Timing
    ------
    An item a cycle; `o.valid` follows `i.valid` at once, `i.ready` depends on `o.ready`.

    Parameters
    ----------
    shape : ShapeLike   Items.
    width : int         Lanes of a beat.

    Members
    -------
    i : In(stream of DenseBeat(shape))
    o : Out(stream of Single(shape))
    """

    def __init__(self, *, shape: ShapeLike, width: int) -> None:
        self._width = width
        super().__init__(
            {"i": In(stream.Signature(DenseBeat(shape, width))), "o": Out(stream.Signature(Single(shape)))}
        )

    def elaborate(self, platform: object) -> Module:
        """A place in the beat."""
        m = Module()
        beat, place, end, none = self.i.payload, Signal(range(self._width)), Signal(), Signal()
        m.d.comb += [
            none.eq(beat.count == 0),
            end.eq(none | (place + 1 == beat.count)),
            self.o.valid.eq(self.i.valid),
            self.o.payload.last.eq(beat.last & end),
            self.o.payload.none.eq(none),
            self.i.ready.eq(end & self.o.ready),
        ]
        with m.Switch(place):
            for lane in range(self._width):
                with m.Case(lane):
                    m.d.comb += Value.cast(self.o.payload.item).eq(Value.cast(beat.items[lane]))
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += place.eq(0)
            with m.If(~end):
                m.d.sync += place.eq(place + 1)
        return m
