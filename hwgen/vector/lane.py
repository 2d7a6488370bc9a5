"""One column of the vector engine: all arithmetic of a VECTOR instruction on one FP32 value."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.fp.add import FpAdd
from hwgen.fp.convert import relu


class VectorLane(wiring.Component):
    """`o = relu?(x [+ y])`. Without `add`, `x` passes bit for bit.

    Timing
    ------
    `latency` cycles from `x` and `y` to `o`, one value a cycle. `add` and `relu` hold for all values under way.

    Parameters
    ----------
    add_latency : int    Registers of the adder.

    Members
    -------
    x, y : In(32)
    add, relu : In(1)
    o : Out(32)
    """

    x: In(32)
    y: In(32)
    add: In(1)
    relu: In(1)
    o: Out(32)

    def __init__(self, *, add_latency: int) -> None:
        self._add_latency = add_latency
        super().__init__()

    @property
    def latency(self) -> int:
        """Cycles from operands to result."""
        return self._add_latency

    def elaborate(self, platform: object) -> Module:
        """Adder beside a delay of `x`, then ReLU."""
        m = Module()
        m.submodules.adder = adder = FpAdd(latency=self._add_latency, subnormals=True)
        m.d.comb += [adder.a.eq(self.x), adder.b.eq(self.y)]
        x = self.x
        for stage in range(self._add_latency):
            delayed = Signal(32, name=f"x_{stage}", reset_less=True)
            m.d.sync += delayed.eq(x)
            x = delayed
        value = Signal(32)
        m.d.comb += [value.eq(Mux(self.add, adder.o, x)), self.o.eq(Mux(self.relu, relu(value), value))]
        return m
