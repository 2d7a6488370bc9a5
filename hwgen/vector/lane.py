"""One column of the vector engine: all arithmetic of a VECTOR instruction on one FP32 value."""

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch.isa import Operation
from hwgen.fp.add import FpAdd
from hwgen.fp.convert import FpCompare, relu
from hwgen.fp.formats import FP32
from hwgen.fp.multiply import FpMultiply
from hwgen.lib.pipeline import delay

_SUMS = (Operation.ADD, Operation.SUB, Operation.MAC)
"""Operations whose result leaves the adder."""


class LaneControl(data.StructLayout):
    """What a lane does: fields of VECTOR of the same names."""

    def __init__(self) -> None:
        super().__init__({"operation": max(Operation).bit_length(), "relu": 1, "shift": 5, "right": 1})


class VectorLane(wiring.Component):
    """`o = relu?(operation(x, y, z))` as ISA.md defines VECTOR; `y` comes shuffled, the lane shifts it.

    Timing
    ------
    `latency` cycles from `x`, `y`, `z` to `o` for every operation, one value a cycle. `control` holds for all values
    under way.

    Parameters
    ----------
    mul_latency, add_latency : int    Registers of multiplier and adder.

    Members
    -------
    x, y, z : In(32)
    control : In(LaneControl)
    o : Out(32)
    """

    x: In(32)
    y: In(32)
    z: In(32)
    control: In(LaneControl())
    o: Out(32)

    def __init__(self, *, mul_latency: int, add_latency: int) -> None:
        self._mul_latency, self._add_latency = mul_latency, add_latency
        super().__init__()

    @property
    def latency(self) -> int:
        """Cycles from operands to result: multiplier, then adder; the other operations go along beside them."""
        return self._mul_latency + self._add_latency

    def elaborate(self, platform: object) -> Module:
        """Beside the multiplier: comparisons and shift; between multiplier and adder: integers; at the end: ReLU."""
        m = Module()
        operation = self.control.operation
        m.submodules.multiplier = multiplier = FpMultiply(fmt=FP32, latency=self._mul_latency)
        m.submodules.adder = adder = FpAdd(latency=self._add_latency)
        first = delay(m, self._first(m, operation), self._mul_latency, "first")
        second = delay(m, self._second(m, operation), self._mul_latency, "second")
        m.d.comb += [
            multiplier.a.eq(self.x),
            multiplier.b.eq(self.y),
            adder.a.eq(Mux(operation == Operation.MAC, multiplier.o, first)),
            adder.b.eq(second),
        ]
        other = delay(m, self._bypass(m, operation, multiplier.o, first, second), self._add_latency, "other")
        value, summed = Signal(32), Signal()
        m.d.comb += [
            summed.eq(Cat(operation == code for code in _SUMS).any()),
            value.eq(Mux(summed, adder.o, other)),
            self.o.eq(Mux(self.control.relu, relu(value), value)),
        ]
        return m

    def _first(self, m: Module, operation: Value) -> Signal:
        """What travels beside the multiplier to be added to or given out: `x`, or the result of a comparison."""
        first, below = Signal(32, name="first"), Signal()
        m.submodules.compare = compare = FpCompare()
        m.d.comb += [
            compare.a.eq(self.x),
            compare.b.eq(self.y),
            below.eq(compare.lt | (compare.eq & self.x[31])),  # -0 is below +0; other equals are the same bits
            first.eq(self.x),
        ]
        positive = (self.x != 0) & (self.x <= FP32.infinity)
        with m.Switch(operation):
            for code, value in (
                (Operation.MAX, Mux(compare.unordered, FP32.nan, Mux(below, self.y, self.x))),
                (Operation.MIN, Mux(compare.unordered, FP32.nan, Mux(below, self.x, self.y))),
                (Operation.POSITIVE, Mux(positive, self.y, 0)),
                (Operation.EQUAL, Mux(compare.eq, self.z, 0)),
            ):
                with m.Case(code):
                    m.d.comb += first.eq(value)
        return first

    def _second(self, m: Module, operation: Value) -> Signal:
        """What travels beside the multiplier to be added to the product or to `first`."""
        second = Signal(32, name="second")
        m.d.comb += second.eq(self._shifted(m))
        with m.Switch(operation):
            with m.Case(Operation.MAC):
                m.d.comb += second.eq(self.z)
            with m.Case(Operation.SUB):
                m.d.comb += second.eq(Cat(self.y[:31], ~self.y[31]))
        return second

    def _bypass(self, m: Module, operation: Value, product: Value, first: Value, second: Value) -> Signal:
        """Result of what does not need the adder: a product, an integer operation or what was there before."""
        other, total, minus = Signal(32, name="bypass"), Signal(33), Signal()
        m.d.comb += [
            minus.eq(operation == Operation.ISUB),
            total.eq(Cat(minus, first) + Cat(minus, second ^ minus.replicate(32))),  # x - y is x + ~y + 1
            other.eq(first),
        ]
        with m.Switch(operation):
            for codes, value in (
                ((Operation.MUL,), product),
                ((Operation.AND,), first & second),
                ((Operation.OR,), first | second),
                ((Operation.XOR,), first ^ second),
                ((Operation.IADD, Operation.ISUB), total[1:]),
            ):
                with m.Case(*codes):
                    m.d.comb += other.eq(value)
        return other

    def _shifted(self, m: Module) -> Signal:
        """`y` shifted by `control.shift`, in two steps; to the left means to the right from 31 places further up."""
        right, shift = self.control.right, self.control.shift
        wide, places, coarse, result = Signal(63), Signal(5), Signal(39), Signal(32, name="shifted")
        m.d.comb += [
            wide.eq(Mux(right, self.y, Cat(C(0, 31), self.y))),
            places.eq(shift ^ (~right).replicate(5)),
            coarse.eq(wide >> Cat(C(0, 3), places[3:])),
            result.eq(coarse >> places[:3]),
        ]
        return result
