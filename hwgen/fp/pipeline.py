"""Pipeline registers at chosen cuts of a data path, and the shifters that floating point units share."""

from collections.abc import Sequence

from amaranth.hdl import C, Cat, Module, Mux, Shape, Signal, Value


def check_latency(latency: int) -> int:
    """Return `latency`. Raises ValueError when it is negative."""
    if latency < 0:
        raise ValueError(f"latency must be at least 0, not {latency!r}")
    return latency


class Pipeline:
    """Places `latency` registers on the cuts of a data path.

    `priority` names the cuts, the most useful first; the first `latency` of them get a register.
    Registers beyond the number of cuts go to the cut named `output`. Data registers have no enable and no reset.
    """

    def __init__(self, m: Module, *, latency: int, priority: Sequence[str]) -> None:
        self._m = m
        self._registers = {cut: int(index < latency) for index, cut in enumerate(priority)}
        self._registers["output"] += max(0, latency - len(priority))

    def cut(self, name: str, **values: Value) -> list[Signal]:
        """Named copies of `values` behind the registers of cut `name`."""
        return [self._delay(f"{name}_{key}", Value.cast(value), name) for key, value in values.items()]

    def _delay(self, name: str, value: Value, cut: str) -> Signal:
        shape = Shape(len(value), value.shape().signed)
        for stage in range(self._registers[cut]):
            register = Signal(shape, name=f"{name}_{stage}", reset_less=True)
            self._m.d.sync += register.eq(value)
            value = register
        if self._registers[cut]:
            return value
        wire = Signal(shape, name=name)
        self._m.d.comb += wire.eq(value)
        return wire


def leading_zeros(m: Module, value: Value, name: str) -> Signal:
    """Leading zeros of `value`, or `2**n - 1` for zero where `n` is the width of the result.

    Halves the value in each step: few operations in simulation, about 1.5 LUT a bit.
    """
    width = len(value)
    steps = (width - 1).bit_length()
    bits = []
    for step in reversed(range(steps)):
        half = 1 << step
        rest = max(0, len(value) - half)
        upper, lower = value[rest:], value[:rest]
        empty = Signal(name=f"{name}_empty{half}")
        padded = Cat(C(0, half - rest), lower) if rest < half else lower
        m.d.comb += empty.eq(value < (1 << rest))
        value = Signal(half, name=f"{name}_half{half}")
        m.d.comb += value.eq(Mux(empty, padded, upper))
        bits.insert(0, empty)
    count = Signal(steps, name=name)
    m.d.comb += count.eq(Cat(bits))
    return count


def shift_right(m: Module, value: Value, places: Value, name: str) -> Value:
    """`value` (24 to 32 bits) shifted right by `places` (5 bits), above one bit that is 1 when ones were lost."""
    width = len(value)
    coarse, lost = Signal(width, name=f"{name}_coarse"), Signal(24, name=f"{name}_lost")
    wide = Signal(width + 7, name=f"{name}_wide")
    skipped = Cat(C(0, 3), places[3:])
    m.d.comb += [
        coarse.eq(value >> skipped),
        lost.eq(value[:24] & ~(C(0xFFFFFF, 24) << skipped)[:24]),
        wide.eq(Cat(C(0, 7), coarse) >> places[:3]),
    ]
    return Cat((lost != 0) | (wide[:7] != 0), wide[7:])


def shift_bytes(m: Module, value: Value, limit: Value | None, name: str) -> tuple[Signal, Signal]:
    """Shift `value` (9 bits or more) left by bytes, three at most, while its top byte is zero and is not the last one.

    `limit`, when given, is the number of bits that it may be shifted at most. Returns the value and the bytes.
    """
    width = len(value)
    empty = [value < (1 << rest) if rest > 0 else C(0, 1) for rest in (width - 8, width - 16, width - 24)]
    count, shifted = Signal(2, name=f"{name}_bytes"), Signal(width, name=f"{name}_shifted")
    wanted = Signal(2, name=f"{name}_wanted")
    m.d.comb += wanted.eq(Cat(Mux(empty[1], empty[2], empty[0]), empty[1]))
    m.d.comb += count.eq(wanted if limit is None else Mux(limit[3:] < wanted, limit[3:5], wanted))
    m.d.comb += shifted.eq(value << Cat(C(0, 3), count))
    return shifted, count


def shift_bits(m: Module, value: Value, limit: Value | None, name: str) -> tuple[Signal, Signal]:
    """Shift `value` left while its top bit is zero, at most seven places and at most `limit`, when given.

    Returns the value and the places.
    """
    wanted = leading_zeros(m, value[-8:], f"{name}_zeros")
    count, shifted = Signal(3, name=f"{name}_places"), Signal(len(value), name=f"{name}_shifted")
    m.d.comb += count.eq(wanted if limit is None else Mux(limit < wanted, limit[:3], wanted))
    m.d.comb += shifted.eq(value << count)
    return shifted, count
