"""Slots of weights as beats: four beats of values, then a beat of their indices."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch import INDEX_BITS

SLOTS = 4
"""Slots whose indices share a beat."""


class Slot(data.StructLayout):
    """A slot of each column: values and indices, column 0 least significant; `end`: it is the last of its sequence."""

    def __init__(self, cols: int) -> None:
        super().__init__({"values": 16 * cols, "indices": INDEX_BITS * cols, "end": 1})


class SlotPacker(wiring.Component):
    """Puts a beat of indices behind every four slots; the last four of a sequence are filled up with +0 and index 0.

    Timing
    ------
    Combinational; one beat a cycle.

    Parameters
    ----------
    cols : int

    Members
    -------
    i : In(stream of Slot)
    o : Out(stream of 16 * cols)
    busy : Out(1)   Four slots have been begun.
    """

    def __init__(self, *, cols: int) -> None:
        self._cols = cols
        super().__init__({"i": In(stream.Signature(Slot(cols))), "o": Out(stream.Signature(16 * cols)), "busy": Out(1)})

    def elaborate(self, platform: object) -> Module:
        """A count of beats, a register for each slot's indices, and whether the sequence has ended."""
        m = Module()
        count, ended = Signal(range(SLOTS + 1)), Signal()
        indices = [Signal(INDEX_BITS * self._cols, name=f"indices_{slot}", reset_less=True) for slot in range(SLOTS)]
        slot = self.i.payload
        values = Mux(ended, 0, slot.values)
        last = count == SLOTS
        done = self.o.valid & self.o.ready
        m.d.comb += [
            self.o.valid.eq(last | ended | self.i.valid),
            self.o.payload.eq(Mux(last, Cat(indices), values)),
            self.i.ready.eq(self.o.ready & ~last & ~ended),
            self.busy.eq((count != 0) | ended),
        ]
        with m.If(done & last):
            m.d.sync += [count.eq(0), ended.eq(0)]
        with m.Elif(done):
            m.d.sync += [count.eq(count + 1), ended.eq(ended | slot.end)]
            with m.Switch(count):
                for number, register in enumerate(indices):
                    with m.Case(number):
                        m.d.sync += register.eq(Mux(ended, 0, slot.indices))
        return m
