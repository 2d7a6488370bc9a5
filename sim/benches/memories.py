"""Memories around a design: external memory behind AXI channels, accumulator words behind read and write ports."""

import random
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
from amaranth.lib.wiring import SignatureMembers

from hwgen.arch import Arch
from hwgen.lib.axi import ReadSignature, WriteSignature
from hwgen.lib.shapes import AccRead
from models.memory import BusError, Memory
from sim.streams import Actor, Channel, MakeStalls, Monitor, Sink, Source

DECERR = 3
PAGE = 4096

OnBeat = Callable[[int, int, int], None]
"""Called with address, data and cycle of a beat."""


def read_channels(dut: object, name: str, arch: Arch) -> tuple[Channel, Channel]:
    """AR and R of a `ReadSignature` port."""
    members = ReadSignature(arch).members
    return _channel(dut, name, members, "ar"), _channel(dut, name, members, "r")


def write_channels(dut: object, name: str, arch: Arch) -> tuple[Channel, Channel, Channel]:
    """AW, W and B of a `WriteSignature` port."""
    members = WriteSignature(arch).members
    return _channel(dut, name, members, "aw"), _channel(dut, name, members, "w"), _channel(dut, name, members, "b")


def _channel(dut: object, name: str, members: SignatureMembers, channel: str) -> Channel:
    return Channel.packed(dut, f"{name}__{channel}", members[channel].signature.members["payload"].shape)


def _ignore(address: int, data: int, cycle: int) -> None:
    """A beat that nobody waits for."""


class AxiMemory:
    """External memory that answers bursts in order, `latency` cycles after their address or last beat at the earliest.

    Checks that bursts are legal and that at most `outstanding` are in flight. Outside `contents` it answers DECERR.
    `to_design` makes the stalls of R and B, `from_design` those of AR, AW and W. `on_read` and `on_write` are called
    with every beat in the cycle in which it is transferred.
    """

    def __init__(
        self,
        arch: Arch,
        contents: Memory,
        *,
        to_design: MakeStalls,
        from_design: MakeStalls,
        latency: int = 10,
        outstanding: int | None = None,
        on_read: OnBeat = _ignore,
        on_write: OnBeat = _ignore,
    ) -> None:
        self.arch, self.contents, self.latency = arch, contents, latency
        self.on_read, self.on_write = on_read, on_write
        self.bursts = 0
        self._limit = outstanding or arch.memory.outstanding
        self._to_design, self._from_design = to_design, from_design
        self._reads: deque[int] = deque()
        self._writes: deque[tuple[int, int]] = deque()
        self._index, self._response = 0, 0
        self._reading, self._answering = 0, 0

    @property
    def idle(self) -> bool:
        """No burst is under way."""
        return not (self._reading or self._answering or self._writes)

    def serve_read(self, ar: Channel, r: Channel) -> list[Actor]:
        """Actors for the read channels."""
        self._beats = Source(r, self._to_design)
        monitors = [Monitor("AR", ar, self._read_address), Monitor("R", r, self._read_beat)]
        return [*monitors, Sink(ar, self._from_design), self._beats]

    def serve_write(self, aw: Channel, w: Channel, b: Channel) -> list[Actor]:
        """Actors for the write channels; a beat is taken once its address is known."""
        self._answers = Source(b, self._to_design)
        # The monitor of W comes first: a beat belongs to an address of an earlier cycle.
        monitors = [Monitor("W", w, self._write_beat), Monitor("AW", aw, self._write_address)]
        sinks = [Sink(aw, self._from_design), Sink(w, self._from_design, lambda: bool(self._writes))]
        return [*monitors, Monitor("B", b, self._answered), *sinks, self._answers]

    def _check(self, item: SimpleNamespace, in_flight: int) -> int:
        """Number of beats of a legal burst."""
        size, beats = self.arch.beat_bytes, item.len + 1
        assert item.addr % size == 0, f"{item.addr:#x} is not a multiple of {size}"
        assert beats <= self.arch.memory.burst_beats, f"a burst of {beats} beats"
        last = item.addr + beats * size - 1
        assert item.addr // PAGE == last // PAGE, f"the burst of {beats} beats at {item.addr:#x} crosses {PAGE} bytes"
        assert in_flight < self._limit, f"more than {self._limit} bursts in flight"
        self.bursts += 1
        return beats

    def _read_address(self, item: SimpleNamespace, cycle: int) -> None:
        beats, size = self._check(item, self._reading), self.arch.beat_bytes
        self._reading += 1
        for index in range(beats):
            address, response, data = item.addr + index * size, 0, 0
            try:
                data = int.from_bytes(self.contents.read(address, size), "little")
            except BusError:
                response = DECERR
            fields = {"data": data, "resp": response, "last": int(index == beats - 1), "id": item.id}
            self._beats.send(earliest=cycle + self.latency + index, **fields)
            self._reads.append(address)

    def _read_beat(self, item: SimpleNamespace, cycle: int) -> None:
        self._reading -= item.last
        self.on_read(self._reads.popleft(), item.data, cycle)

    def _write_address(self, item: SimpleNamespace, cycle: int) -> None:
        beats = self._check(item, len(self._writes) + self._answering)
        self._writes.append((item.addr, beats))

    def _write_beat(self, item: SimpleNamespace, cycle: int) -> None:
        start, beats = self._writes[0]
        address = start + self._index * self.arch.beat_bytes
        assert item.last == (self._index == beats - 1), f"W.last is {item.last} in beat {self._index} of {beats}"
        try:
            self.contents.write(address, item.data.to_bytes(self.arch.beat_bytes, "little"))
        except BusError:
            self._response = DECERR
        self.on_write(address, item.data, cycle)
        self._index += 1
        if item.last:
            self._writes.popleft()
            self._answering += 1
            self._answers.send(earliest=cycle + self.latency, resp=self._response)
            self._index, self._response = 0, 0

    def _answered(self, item: SimpleNamespace, cycle: int) -> None:
        self._answering -= 1


class AccReader(Actor):
    """Serves an `AccRead` port from `words`, uint32 `[depth, C]`. A word is shown in its one cycle, junk afterwards."""

    def __init__(self, dut: object, name: str, words: np.ndarray, make_stalls: MakeStalls | None) -> None:
        self._channel, self._words = Channel.flat(dut, f"{name}__", ["address"]), words
        self._data = getattr(dut, f"{name}__data")
        self._stalls = Sink(self._channel, make_stalls) if make_stalls else None
        self._pending: deque[int | None] = deque([None] * (AccRead.LATENCY - 1))
        self._junk, self._showing = random.Random(1), False

    def sample(self, cycle: int) -> None:
        """Accept a request."""
        word = None
        if int(self._channel.valid.value) and int(self._channel.ready.value):
            word = int.from_bytes(self._words[self._channel.get().address].tobytes(), "little")
        self._pending.append(word)

    def drive(self, cycle: int) -> None:
        """Show the word that is due, and whether the port stalls."""
        word = self._pending.popleft()
        if word is not None or self._showing:
            self._data.value = self._junk.getrandbits(32 * self._words.shape[1]) if word is None else word
        self._showing = word is not None
        if self._stalls is not None:
            self._stalls.drive(cycle)
        else:
            self._channel.ready.value = 1


class AccWriter:
    """Serves an `AccWrite` port into `words`, uint32 `[depth, C]`; `on_write(address, word, cycle)` sees every word."""

    def __init__(self, dut: object, name: str, words: np.ndarray, make_stalls: MakeStalls, on_write: OnBeat) -> None:
        channel = Channel.flat(dut, f"{name}__", ["address", "data", "halves"])
        self._words, self._on_write = words, on_write
        self.actors: list[Actor] = [Monitor(name, channel, self._write), Sink(channel, make_stalls)]

    def _write(self, item: SimpleNamespace, cycle: int) -> None:
        assert item.halves == 0b11, f"an engine wrote half a word, {item}"
        assert item.address < len(self._words), f"word {item.address} is outside the scratchpad"
        self._words[item.address] = np.frombuffer(item.data.to_bytes(self._words[0].nbytes, "little"), np.uint32)
        self._on_write(item.address, item.data, cycle)
