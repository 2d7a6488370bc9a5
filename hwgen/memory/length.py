"""How many beats a sequence of weights has when it is reduced to N:M."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch import Arch

SLOTS, BEATS = 4, 5
"""Slots that share a beat of indices, and the beats that they take."""


class PackedLength(wiring.Component):
    """Divides the values of a sequence into groups of `m`, and adds up their slots, bit by bit.

    Timing
    ------
    `done` pulses `latency(width)` cycles after `start`; `beats` and `exact` stay until the next `start`.

    Parameters
    ----------
    arch : Arch
    width : int        Bits of `length`.

    Members
    -------
    start : In(1)
    length : In(width), m : In(5), n : In(5)   With `start`; `m` at least 1.
    done : Out(1)
    exact : Out(1)     `length` is a multiple of `m`.
    beats : Out(width + 4)   5 for every 4 slots, the last ones filled up.
    """

    def __init__(self, arch: Arch, *, width: int) -> None:
        self._lanes, self._width = arch.array.lanes, width
        super().__init__(
            {
                "start": In(1),
                "length": In(width),
                "m": In(5),
                "n": In(5),
                "done": Out(1),
                "exact": Out(1),
                "beats": Out(width + 4),
            }
        )

    @staticmethod
    def latency(width: int) -> int:
        """Cycles from `start` to `done`: one for every bit of the length, and one."""
        return width + 1

    def elaborate(self, platform: object) -> Module:
        """Long division; a bit of the quotient is a bit by which the slots of a group are multiplied."""
        m = Module()
        bits_left = Signal(range(self._width + 1))
        length, total = Signal(self._width, reset_less=True), Signal(self._width + 2, reset_less=True)
        size, slots, rest = (Signal(5, name=name, reset_less=True) for name in ("size", "slots", "rest"))
        trial = Cat(length[-1], rest)
        fits = trial >= size
        m.d.comb += [
            self.exact.eq(rest == 0),
            self.beats.eq((total + SLOTS - 1) // SLOTS * BEATS),
        ]
        m.d.sync += self.done.eq(bits_left == 1)
        with m.If(self.start):
            m.d.sync += [
                bits_left.eq(self._width),
                length.eq(self.length),
                size.eq(self.m),
                slots.eq((self.n + self._lanes - 1) & ~(self._lanes - 1)),
                rest.eq(0),
                total.eq(0),
            ]
        with m.Elif(bits_left != 0):
            m.d.sync += [
                bits_left.eq(bits_left - 1),
                length.eq(length << 1),
                rest.eq(Mux(fits, trial - size, trial)),
                total.eq((total << 1) + Mux(fits, slots, 0)),
            ]
        return m
