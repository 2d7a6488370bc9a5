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
from hwgen.lib.shapes import WORD_BITS
from hwgen.vector.curve import CurveTable, CurveWrite

_PRODUCT_SUMS = (Operation.MAC, Operation.CURVE)
"""Operations that add z, or the offset of an entry, to a product."""
_SUMS = (Operation.ADD, Operation.SUB, *_PRODUCT_SUMS)
"""Operations whose result leaves the adder."""


class LaneControl(data.StructLayout):
    """What a lane does: fields of VECTOR of the same names. `y_addr` and `y_stride` say where a curve is."""

    def __init__(self) -> None:
        fields = {"operation": max(Operation).bit_length(), "relu": 1, "shift": 5, "right": 1}
        super().__init__(fields | {"y_addr": WORD_BITS, "y_stride": WORD_BITS})


class VectorLane(wiring.Component):
    """`o = relu?(operation(x, y, z))` as ISA.md defines VECTOR; `y` comes shuffled, the lane shifts it.

    Timing
    ------
    `latency` cycles from `x`, `y`, `z` to `o` for every operation, one value a cycle. `control` holds for all values
    under way.

    Parameters
    ----------
    mul_latency, add_latency : int    Registers of multiplier and adder.
    curve_entries : int               Of the table for CURVE; 0 leaves it out.

    Members
    -------
    x, y, z : In(32)
    control : In(LaneControl)
    o : Out(32)
    curve : In(CurveWrite)   Only if there is a table.
    """

    def __init__(self, *, mul_latency: int, add_latency: int, curve_entries: int = 0) -> None:
        self._mul_latency, self._add_latency, self._curve_entries = mul_latency, add_latency, curve_entries
        ports = {"x": In(32), "y": In(32), "z": In(32), "control": In(LaneControl()), "o": Out(32)}
        super().__init__(ports | ({"curve": In(CurveWrite())} if curve_entries else {}))

    @property
    def latency(self) -> int:
        """Cycles from operands to result: table and the register behind it, multiplier, adder; the other operations go
        along beside them.
        """
        return (CurveTable.LATENCY + 1 if self._curve_entries else 0) + self._mul_latency + self._add_latency

    def elaborate(self, platform: object) -> Module:
        """In front: the table. Beside the multiplier: comparisons and shift; between multiplier and adder: integers; at
        the end: ReLU.
        """
        m = Module()
        operation = self.control.operation
        self._operands = self._looked_up(m) if self._curve_entries else (self.x, self.y, self.z)
        x, y, _ = self._operands
        m.submodules.multiplier = multiplier = FpMultiply(fmt=FP32, latency=self._mul_latency)
        m.submodules.adder = adder = FpAdd(latency=self._add_latency)
        first = delay(m, self._first(m, operation), self._mul_latency, "first")
        second = delay(m, self._second(m, operation), self._mul_latency, "second")
        m.d.comb += [
            multiplier.a.eq(x),
            multiplier.b.eq(y),
            adder.a.eq(Mux(_is_in(operation, _PRODUCT_SUMS), multiplier.o, first)),
            adder.b.eq(second),
        ]
        other = delay(m, self._bypass(m, operation, multiplier.o, first, second), self._add_latency, "other")
        value, summed = Signal(32), Signal()
        m.d.comb += [
            summed.eq(_is_in(operation, _SUMS)),
            value.eq(Mux(summed, adder.o, other)),
            self.o.eq(Mux(self.control.relu, relu(value), value)),
        ]
        return m

    def _looked_up(self, m: Module) -> tuple[Value, Value, Value]:
        """x, y and z some cycles later; for CURVE, y and z are slope and offset of the entry that x meets."""
        m.submodules.table = table = CurveTable(entries=self._curve_entries)
        control, cycles = self.control, CurveTable.LATENCY
        x, y, z = (delay(m, getattr(self, name), cycles, f"{name}_before") for name in "xyz")
        curve, level, operands = Signal(), Signal(), [Signal(32, name=name, reset_less=True) for name in "xyz"]
        m.d.comb += [
            table.write.eq(self.curve),
            table.x.eq(self.x),
            table.base.eq(control.y_addr),
            table.size.eq(control.y_stride),
            table.shift.eq(control.shift),
            curve.eq(control.operation == Operation.CURVE),
            level.eq((table.o.slope[:31] == 0) & (x[:31] == FP32.infinity)),
        ]
        values = (Mux(curve & level, 0, x), Mux(curve, table.o.slope, y), Mux(curve, table.o.offset, z))
        m.d.sync += [operand.eq(value) for operand, value in zip(operands, values)]
        return tuple(operands)

    def _first(self, m: Module, operation: Value) -> Signal:
        """What travels beside the multiplier to be added to or given out: `x`, or the result of a comparison."""
        x, y, z = self._operands
        first, below = Signal(32, name="first"), Signal()
        m.submodules.compare = compare = FpCompare()
        m.d.comb += [
            compare.a.eq(x),
            compare.b.eq(y),
            below.eq(compare.lt | (compare.eq & x[31])),  # -0 is below +0; other equals are the same bits
            first.eq(x),
        ]
        positive = (x != 0) & (x <= FP32.infinity)
        with m.Switch(operation):
            for code, value in (
                (Operation.MAX, Mux(compare.unordered, FP32.nan, Mux(below, y, x))),
                (Operation.MIN, Mux(compare.unordered, FP32.nan, Mux(below, x, y))),
                (Operation.POSITIVE, Mux(positive, y, 0)),
                (Operation.EQUAL, Mux(compare.eq, z, 0)),
            ):
                with m.Case(code):
                    m.d.comb += first.eq(value)
        return first

    def _second(self, m: Module, operation: Value) -> Signal:
        """What travels beside the multiplier to be added to the product or to `first`."""
        _, y, z = self._operands
        second = Signal(32, name="second")
        m.d.comb += second.eq(self._shifted(m, y))
        with m.Switch(operation):
            with m.Case(*_PRODUCT_SUMS):
                m.d.comb += second.eq(z)
            with m.Case(Operation.SUB):
                m.d.comb += second.eq(Cat(y[:31], ~y[31]))
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

    def _shifted(self, m: Module, y: Value) -> Signal:
        """`y` shifted by `control.shift`, in two steps; to the left means to the right from 31 places further up."""
        right, shift = self.control.right, self.control.shift
        wide, places, coarse, result = Signal(63), Signal(5), Signal(39), Signal(32, name="shifted")
        m.d.comb += [
            wide.eq(Mux(right, y, Cat(C(0, 31), y))),
            places.eq(shift ^ (~right).replicate(5)),
            coarse.eq(wide >> Cat(C(0, 3), places[3:])),
            result.eq(coarse >> places[:3]),
        ]
        return result


def _is_in(operation: Value, codes: tuple[Operation, ...]) -> Value:
    """Whether an operation is one of `codes`."""
    return Cat(operation == code for code in codes).any()
