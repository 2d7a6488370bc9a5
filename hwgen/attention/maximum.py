"""The largest of several numbers, each of which counts or does not."""

from amaranth.hdl import Module, Mux, Value

from hwgen.attention.multiply import register

Counted = tuple[Value, Value]
"""Whether a number counts, and the number, signed."""


def larger(one: Counted, other: Counted) -> Counted:
    """The larger of two numbers that count; whether one does."""
    take = other[0] & (~one[0] | (other[1] > one[1]))
    return one[0] | other[0], Mux(take, other[1], one[1]).as_signed()


def levels(count: int) -> int:
    """Cycles that `largest` takes for `count` numbers."""
    return (count - 1).bit_length()


def largest(m: Module, values: list[Counted], name: str) -> Counted:
    """The largest of a power of two of numbers, a register for each of the `levels`."""
    while len(values) > 1:
        pairs = zip(values[::2], values[1::2])
        values = [tuple(register(m, part, name) for part in larger(*pair)) for pair in pairs]
    return values[0]
