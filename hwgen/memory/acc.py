"""Accumulator scratchpad: banks of FP32 words, who may use them, and the way of loaded beats into them."""

from collections.abc import Sequence
from dataclasses import dataclass

from amaranth.hdl import Array, C, Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch import Arch
from hwgen.arch.isa import Target
from hwgen.fp.convert import FpWiden
from hwgen.fp.formats import OPERAND_FORMATS
from hwgen.lib.ram import Ram
from hwgen.lib.shapes import AccRead, AccWrite, LoadBeat
from hwgen.lib.shared import Shared

READERS = ("read_tensor", "read_vector_x", "read_vector_y", "read_vector_z", "read_store")
"""Read ports of the scratchpad, the most urgent first."""
WRITERS = ("write_tensor", "write_tensor_odd", "write_vector", "write_load", "write_fill")
"""Write ports of the scratchpad, the most urgent first; see `writers`."""


def writers(arch: Arch) -> tuple[str, ...]:
    """Write ports that the scratchpad of `arch` has: the second one of the tensor engine only for two words a cycle,
    that of FILL only with two memory ports.
    """
    there = {"write_tensor_odd": arch.array.drain == 2, "write_fill": arch.memory.ports == 2}
    return tuple(name for name in WRITERS if there.get(name, True))


@dataclass(frozen=True)
class _Port:
    """A port of the scratchpad and the half of the banks that it is wired to, None for both."""

    bus: wiring.FlippedInterface
    half: int | None


class AccBank(wiring.Component):
    """One memory with a read port, a write port and an output register. Holds zeros after power-up.

    Timing
    ------
    `read_data` follows `read_enable` by 2 cycles and stays until the next read. A read in the cycle of a write to the
    same word gives the old content.

    Parameters
    ----------
    width : int    Bits of a word, even.
    depth : int    Words.

    Members
    -------
    read_enable : In(1), read_address : In(range(depth)), read_data : Out(width)
    write_halves : In(2), write_address : In(range(depth)), write_data : In(width)
    """

    LATENCY = 2

    def __init__(self, *, width: int, depth: int) -> None:
        self._width, self._depth = width, depth
        super().__init__(
            {
                "read_enable": In(1),
                "read_address": In(range(depth)),
                "read_data": Out(width),
                "write_halves": In(2),
                "write_address": In(range(depth)),
                "write_data": In(width),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """The memory, and a register that only moves after a read."""
        m = Module()
        m.submodules.words = words = Ram(width=self._width, depth=self._depth, parts=2)
        fetched = Signal()
        output = Signal(self._width, reset_less=True)
        m.d.comb += [
            words.read_address.eq(self.read_address),
            words.write_enable.eq(self.write_halves),
            words.write_address.eq(self.write_address),
            words.write_data.eq(self.write_data),
            self.read_data.eq(output),
        ]
        m.d.sync += fetched.eq(self.read_enable)
        with m.If(fetched):
            m.d.sync += output.eq(words.read_data)
        return m


class AccScratchpad(wiring.Component):
    """`acc_banks` banks; the top address bits choose one. If `acc_halves` is 2, each bank is two memories, for even and
    odd addresses.

    In a memory the most urgent port wins: tensor, then vector (x, y, z), then store or load, then fill. Ports that use
    different ones don't disturb each other. The tensor ports are never refused: of two words that the tensor engine
    writes in a cycle, one has an even and one an odd address. The engines see to it that addresses lie in the
    scratchpad.

    Timing
    ------
    `ready` is combinational, from the requests of more urgent ports. Words follow an accepted read by
    `AccRead.LATENCY`; writes take effect at the end of the cycle in which they are accepted.

    Parameters
    ----------
    arch : Arch

    Members
    -------
    read_tensor, read_store : In(AccRead)
    read_vector_x, read_vector_y, read_vector_z : In(AccRead), vector.words of each; of two, port h has words whose
                                                  address modulo 2 is h
    write_tensor, write_load : In(AccWrite)
    write_tensor_odd : In(AccWrite)   Only if array.drain is 2.
    write_fill : In(AccWrite)         Only if memory.ports is 2.
    write_vector : In(AccWrite), vector.words of them
    """

    def __init__(self, arch: Arch) -> None:
        self._arch = arch
        ports = {name: In(AccRead(arch)) for name in READERS} | {name: In(AccWrite(arch)) for name in writers(arch)}
        for name in ports:
            if "vector" in name:
                ports[name] = ports[name].array(arch.vector.words)
        super().__init__(ports)

    def elaborate(self, platform: object) -> Module:
        """Grant ports, connect each bank to the most urgent port that wants it, and each reader to its bank."""
        m = Module()
        pads, halves = self._arch.scratchpads, self._arch.acc_halves
        bank_depth = pads.acc_depth // pads.acc_banks // halves
        reading, writing = self._ports(READERS), self._ports(writers(self._arch))
        banks = []
        for number in range(pads.acc_banks * halves):
            bank = Shared(AccBank, width=32 * self._arch.array.cols, depth=bank_depth)
            m.submodules[f"bank_{number}"] = bank
            banks.append(bank)

        for ports in (reading, writing):
            self._grant(m, ports)
        for number, bank in enumerate(banks):
            self._connect_bank(m, bank, number, reading, writing)
        for port in reading:
            self._return_words(m, port, banks)
        return m

    def _ports(self, names: Sequence[str]) -> list[_Port]:
        """Ports in the order of `names`; of those of two words a cycle, each has a half of the banks."""
        ports = []
        for name in names:
            item = getattr(self, name)
            buses = item if "vector" in name else [item]
            ports += [_Port(bus, half if len(buses) > 1 else None) for half, bus in enumerate(buses)]
        return ports

    def _bank_of(self, port: _Port) -> Value:
        """Number of the memory that has the word at a port's address; the half is its lowest bit."""
        pads, address = self._arch.scratchpads, port.bus.address
        top = address[: pads.acc_depth.bit_length() - 1][-(pads.acc_banks.bit_length() - 1) :]
        return Cat(address[: self._word_shift] if port.half is None else C(port.half, 1), top)

    @property
    def _word_shift(self) -> int:
        """Low address bits that choose a memory."""
        return self._arch.acc_halves - 1

    def _grant(self, m: Module, ports: Sequence[_Port]) -> None:
        """A port is ready unless a more urgent one wants the same memory."""
        for index, port in enumerate(ports):
            taken = [other.bus.valid & (self._bank_of(other) == self._bank_of(port)) for other in ports[:index]]
            m.d.comb += port.bus.ready.eq(~Cat(taken).any())

    def _connect_bank(
        self, m: Module, bank: AccBank, number: int, readers: Sequence[_Port], writers: Sequence[_Port]
    ) -> None:
        """Give a memory to the most urgent reader and writer that want it."""
        reads, readers = self._wanted(readers, number)
        writes, writers = self._wanted(writers, number)
        enable = Cat(writes).any()
        m.d.comb += [
            bank.read_enable.eq(Cat(reads).any()),
            bank.read_address.eq(_most_urgent(reads, [bus.address[self._word_shift :] for bus in readers])),
            bank.write_halves.eq(_most_urgent(writes, [bus.halves for bus in writers]) & enable.replicate(2)),
            bank.write_address.eq(_most_urgent(writes, [bus.address[self._word_shift :] for bus in writers])),
            bank.write_data.eq(_most_urgent(writes, [bus.data for bus in writers])),
        ]

    def _wanted(self, ports: Sequence[_Port], number: int) -> tuple[list[Value], list[wiring.FlippedInterface]]:
        """Requests for memory `number`, and the ports that can make them."""
        able = [port for port in ports if port.half in (None, number & 1)]
        return [port.bus.valid & (self._bank_of(port) == number) for port in able], [port.bus for port in able]

    def _return_words(self, m: Module, port: _Port, banks: Sequence[AccBank]) -> None:
        """Show a reader the output register of the memory that it read `LATENCY` cycles ago."""
        if port.half is None:
            bank = self._bank_of(port)
        else:
            banks, bank = banks[port.half :: 2], self._bank_of(port)[1:]
        for stage in range(AccRead.LATENCY):
            register = Signal.like(bank, name=f"bank_{stage}", reset_less=True)
            m.d.sync += register.eq(bank)
            bank = register
        m.d.comb += port.bus.data.eq(Array(item.read_data for item in banks)[bank])


def _most_urgent(wanted: Sequence[Value], values: Sequence[Value]) -> Value:
    """The first of `values` that is `wanted`, the last one if none is."""
    chosen = values[-1]
    for want, value in reversed(list(zip(wanted[:-1], values[:-1]))):
        chosen = Mux(want, value, chosen)
    return chosen


class AccLoader(wiring.Component):
    """Turns beats of LOAD or FILL for ACC32 and ACC16 into writes of the accumulator scratchpad.

    Timing
    ------
    Combinational: a beat is accepted in the cycle in which it is written.

    Parameters
    ----------
    arch : Arch

    Members
    -------
    i : In(stream of LoadBeat)   Only beats whose target is ACC32 or ACC16.
    write : Out(AccWrite)
    """

    def __init__(self, arch: Arch) -> None:
        self._arch = arch
        super().__init__({"i": In(stream.Signature(LoadBeat(arch))), "write": Out(AccWrite(arch))})

    def elaborate(self, platform: object) -> Module:
        """Half a word of FP32, or a whole word of widened operands."""
        m = Module()
        array, beat = self._arch.array, self.i.payload
        fmt = OPERAND_FORMATS[array.operand]
        widened = []
        for col in range(array.cols):
            m.submodules[f"widen_{col}"] = unit = Shared(FpWiden, fmt=fmt)
            m.d.comb += unit.i.eq(beat.data.word_select(col, fmt.width))
            widened.append(unit.o)
        m.d.comb += [
            self.write.valid.eq(self.i.valid),
            self.i.ready.eq(self.write.ready),
            self.write.address.eq(beat.address),
        ]
        with m.If(beat.target == Target.ACC32):
            m.d.comb += [self.write.data.eq(Cat(beat.data, beat.data)), self.write.halves.eq(1 << beat.part[0])]
        with m.Else():
            m.d.comb += [self.write.data.eq(Cat(widened)), self.write.halves.eq(0b11)]
        return m
