"""Actors of a cocotb bench: stall patterns, and driver, sink and monitor of valid/ready streams on a common clock.

In every cycle all actors sample, then all drive. cocotb shows at a rising edge what the ports held just before it, and
what is driven then reaches the design after it. Actors sample in the order in which they were added, which matters when
what one saw concerns another in the same cycle.
"""

import itertools
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace

import cocotb
from amaranth.hdl import Shape, ShapeLike
from amaranth.lib import data
from cocotb import Param
from cocotb.clock import Clock
from cocotb.handle import HierarchyObject, LogicArrayObject
from cocotb.triggers import RisingEdge

LONG = 60
"""Cycles of a long stall: more than any queue and pipeline of the small presets holds."""
RESET_CYCLES = 3
SETTLE_CYCLES = 40
"""Cycles after the end of a bench in which nothing more may come."""


def _every_fourth(seed: int) -> Iterator[bool]:
    return itertools.islice(itertools.cycle([False, False, False, True]), seed % 4, None)


def _at_random(seed: int) -> Iterator[bool]:
    source = random.Random(seed)
    return iter(lambda: source.random() < 0.5, None)


def _long(seed: int) -> Iterator[bool]:
    return itertools.islice(itertools.cycle([False] * 20 + [True] * LONG), seed % (20 + LONG), None)


STALLS: dict[str, Callable[[int], Iterator[bool]]] = {
    "never": lambda seed: itertools.repeat(False),
    "every_fourth": _every_fourth,
    "random": _at_random,
    "long": _long,
}
"""Makers of stall patterns by name, from a seed; True is a cycle in which the actor does nothing."""


def stall_cases(*pairs: tuple[str, str]) -> list[tuple[Param, Param]]:
    """Values of two parameters of a cocotb test, which then has their names in its own."""
    return [tuple(Param(name, name) for name in pair) for pair in pairs]


STALL_CASES = stall_cases(
    ("never", "never"),
    ("never", "random"),
    ("random", "never"),
    ("random", "random"),
    ("every_fourth", "every_fourth"),
    ("never", "long"),
    ("long", "never"),
)
"""Stalls of the inputs and of the outputs of a design that every bench runs."""

MakeStalls = Callable[[], Iterator[bool]]


def stalls(kind: str, seed: int) -> MakeStalls:
    """Maker of patterns of one kind; every call gives another one, independent of the others."""
    source = random.Random(seed)
    return lambda: STALLS[kind](source.getrandbits(32))


class Word:
    """Fields of an Amaranth layout in plain numbers; a shape without fields is one field called `value`."""

    def __init__(self, shape: ShapeLike) -> None:
        self._fields: dict[str, tuple[int, int, Word | None]] = {"value": (0, Shape.cast(shape).width, None)}
        if isinstance(shape, data.Layout):
            self._fields = {
                name: (item.offset, item.width, Word(item.shape) if isinstance(item.shape, data.Layout) else None)
                for name, item in shape
            }

    def pack(self, **values: int) -> int:
        """Bits of a word whose other fields are 0. Raises `ValueError` when a value does not fit."""
        word = 0
        for name, value in values.items():
            offset, width, _ = self._fields[name]
            if not 0 <= value < 1 << width:
                raise ValueError(f"{name} must fit in {width} bits, not {value:#x}")
            word |= int(value) << offset
        return word

    def unpack(self, word: int) -> SimpleNamespace:
        """Fields of a word as attributes."""
        values = {}
        for name, (offset, width, inner) in self._fields.items():
            bits = word >> offset & (1 << width) - 1
            values[name] = inner.unpack(bits) if inner else bits
        return SimpleNamespace(**values)


class Channel:
    """The ports of one stream. Its payload is one port with a layout, or a port for each field."""

    def __init__(self, valid: LogicArrayObject, ready: LogicArrayObject | None) -> None:
        self.valid, self.ready = valid, ready
        self._word: Word | None = None
        self._ports: dict[str, LogicArrayObject] = {}

    @classmethod
    def packed(cls, dut: HierarchyObject, name: str, shape: ShapeLike) -> "Channel":
        """`{name}__payload`, `{name}__valid` and, if there is one, `{name}__ready`."""
        channel = cls(getattr(dut, f"{name}__valid"), getattr(dut, f"{name}__ready", None))
        channel._ports, channel._word = {"payload": getattr(dut, f"{name}__payload")}, Word(shape)
        return channel

    @classmethod
    def flat(cls, dut: HierarchyObject, prefix: str, fields: Iterable[str]) -> "Channel":
        """`{prefix}valid`, `{prefix}ready` and `{prefix}{field}` for every field."""
        channel = cls(getattr(dut, f"{prefix}valid"), getattr(dut, f"{prefix}ready"))
        channel._ports = {name: getattr(dut, f"{prefix}{name}") for name in fields}
        return channel

    def get(self) -> SimpleNamespace:
        """Fields of the payload that is shown."""
        if self._word is not None:
            return self._word.unpack(int(self._ports["payload"].value))
        return SimpleNamespace(**{name: int(port.value) for name, port in self._ports.items()})

    def set(self, **values: int) -> None:
        """Drive the payload."""
        if self._word is not None:
            self._ports["payload"].value = self._word.pack(**values)
        else:
            for name, value in values.items():
                self._ports[name].value = value


class Actor:
    """Takes part in every cycle: samples the ports, then drives them."""

    def sample(self, cycle: int) -> None:
        """Look at what the ports held in `cycle`."""

    def drive(self, cycle: int) -> None:
        """Drive ports for the cycle after `cycle`."""


class Source(Actor):
    """Driver: sends items (fields by name) in order; `valid` stays until an item is taken."""

    def __init__(self, channel: Channel, stalls: MakeStalls) -> None:
        self._channel, self._stalls = channel, stalls()
        self._items: deque[tuple[int, dict[str, int]]] = deque()
        self._showing = False
        channel.valid.value = 0

    @property
    def empty(self) -> bool:
        """Every item has been taken."""
        return not self._items

    def send(self, *, earliest: int = 0, **fields: int) -> None:
        """Queue an item that is not offered before cycle `earliest`."""
        self._items.append((earliest, fields))

    def sample(self, cycle: int) -> None:
        """Forget the item that was taken."""
        if self._showing and (self._channel.ready is None or int(self._channel.ready.value)):
            self._items.popleft()
            self._showing = False
            self._channel.valid.value = 0

    def drive(self, cycle: int) -> None:
        """Offer the next item unless this is a cycle to stall in."""
        if self._showing or next(self._stalls) or not self._items or self._items[0][0] > cycle + 1:
            return
        self._channel.set(**self._items[0][1])
        self._channel.valid.value = 1
        self._showing = True


class Sink(Actor):
    """Drives `ready`, whatever `valid` is; `allowed` may hold it low."""

    def __init__(self, channel: Channel, stalls: MakeStalls, allowed: Callable[[], bool] = lambda: True) -> None:
        self._channel, self._stalls, self._allowed, self._ready = channel, stalls(), allowed, None

    def drive(self, cycle: int) -> None:
        """Stall or not."""
        ready = int(not next(self._stalls) and self._allowed())
        if ready != self._ready:
            self._channel.ready.value = self._ready = ready


class Monitor(Actor):
    """Passes every transfer to `seen(item, cycle)`; checks that an item that is refused stays, unless `withdrawn()`."""

    def __init__(
        self,
        name: str,
        channel: Channel,
        seen: Callable[[SimpleNamespace, int], None],
        withdrawn: Callable[[], bool] = lambda: False,
    ) -> None:
        self._name, self._channel, self._seen, self._withdrawn = name, channel, seen, withdrawn
        self._held: SimpleNamespace | None = None

    def sample(self, cycle: int) -> None:
        """Look for a transfer."""
        if not int(self._channel.valid.value):
            assert self._held is None or self._withdrawn(), f"{self._name}: an offer was withdrawn in cycle {cycle}"
            self._held = None
            return
        item = self._channel.get()
        assert self._held in (None, item), f"{self._name}: {self._held} became {item} in cycle {cycle}"
        taken = self._channel.ready is None or int(self._channel.ready.value)
        self._held = None if taken else item
        if taken:
            self._seen(item, cycle)


class Bench:
    """Clock, reset and time-out around the actors."""

    def __init__(self, dut: HierarchyObject) -> None:
        self.dut, self.cycle = dut, 0
        self.actors: list[Actor] = []
        """Everyone who takes part, in the order of sampling."""

    async def start(self) -> None:
        """Start the clock and hold reset for some cycles. Logs the seed, which cocotb makes anew for every case."""
        self.dut._log.info(f"seed {cocotb.RANDOM_SEED}")
        Clock(self.dut.clk, 2, unit="ns").start()
        self.dut.rst.value = 1
        for _ in range(RESET_CYCLES):
            await RisingEdge(self.dut.clk)
        self.dut.rst.value = 0

    async def run(self, until: Callable[[], bool], *, limit: int) -> None:
        """Run until a condition holds. AssertionError after `limit` cycles."""
        edge = RisingEdge(self.dut.clk)
        for _ in range(limit):
            await edge
            self.cycle += 1
            for actor in self.actors:
                actor.sample(self.cycle)
            for actor in self.actors:
                actor.drive(self.cycle)
            if until():
                return
        raise AssertionError(f"the bench did not end in {limit} cycles")

    async def settle(self) -> None:
        """Let some cycles pass, in which the monitors look for what should not come."""
        end = self.cycle + SETTLE_CYCLES
        await self.run(lambda: self.cycle >= end, limit=SETTLE_CYCLES)
