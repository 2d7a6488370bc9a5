"""Reads the program from memory and cuts it into instructions."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hwgen.arch import INSTRUCTION_BYTES, Arch
from hwgen.arch.isa import Cause
from hwgen.control.words import INSTRUCTION_BITS, REGISTER_BITS, InstructionWord
from hwgen.lib.axi import ReadSignature
from hwgen.lib.shapes import PC_BITS, ErrorLayout
from hwgen.lib.streams import Queue

_PREFETCH = 16
"""Most instructions in one burst; twice as many are buffered. Small, because engines take many cycles for each."""


class _Beat(data.StructLayout):
    """A beat of program and whether the memory reported an error for it."""

    def __init__(self, data_bits: int) -> None:
        super().__init__({"data": data_bits, "failed": 1})


class Unpacker(wiring.Component):
    """Turns beats into instructions, numbered from 0; stops at `count` or at the first failed beat.

    Timing
    ------
    The instruction is on `o` in the cycle in which the beat that completes it is on `i`. A beat of 256 bits or more
    gives an instruction a cycle; narrower ones need 256 / data_bits beats each. What follows the last instruction in
    its beat is dropped.

    Parameters
    ----------
    data_bits : int     Beat width: 256 times or divided by a power of two.

    Members
    -------
    i : In(stream of beat)              Data and `failed`.
    o : Out(stream of InstructionWord)
    count : In(24)                      Instructions of the program.
    pc : Out(24)                        Index of the next instruction on `o`.
    failed : Out(1)                     The beat that holds instruction `pc` failed. Held until `clear`.
    clear : In(1)                       Restart at instruction 0.
    """

    def __init__(self, *, data_bits: int) -> None:
        self._data_bits = data_bits
        super().__init__(
            {
                "i": In(stream.Signature(_Beat(data_bits))),
                "o": Out(stream.Signature(InstructionWord())),
                "count": In(PC_BITS + 1),
                "pc": Out(PC_BITS + 1),
                "failed": Out(1),
                "clear": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """A position in the beat (wide beats) or in the instruction (narrow beats)."""
        m = Module()
        m.d.comb += [self.o.p.pc.eq(self.pc), self.failed.eq(self.i.valid & self.i.p.failed & (self.pc != self.count))]
        offered = self.i.valid & ~self.i.p.failed & (self.pc != self.count)
        if self._data_bits >= INSTRUCTION_BITS:
            self._elaborate_wide(m, offered)
        else:
            self._elaborate_narrow(m, offered)
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += self.pc.eq(self.pc + 1)
        with m.If(self.clear):
            m.d.sync += self.pc.eq(0)
        return m

    def _elaborate_wide(self, m: Module, offered: Signal) -> None:
        slots = self._data_bits // INSTRUCTION_BITS
        slot = self.pc[: exact_log2(slots)]
        last = slot == slots - 1
        m.d.comb += [
            self.o.valid.eq(offered),
            self.o.p.word.eq(self.i.p.data.word_select(slot, INSTRUCTION_BITS)),
            self.i.ready.eq(offered & self.o.ready & last),
        ]

    def _elaborate_narrow(self, m: Module, offered: Signal) -> None:
        parts = INSTRUCTION_BITS // self._data_bits
        part = Signal(range(parts))
        earlier = Signal(INSTRUCTION_BITS - self._data_bits, reset_less=True)
        last = part == parts - 1
        m.d.comb += [
            self.o.valid.eq(offered & last),
            self.o.p.word.eq(Cat(earlier, self.i.p.data)),
            self.i.ready.eq(offered & (self.o.ready | ~last)),
        ]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [part.eq(part + 1), earlier.eq(Cat(earlier, self.i.p.data) >> self._data_bits)]
        with m.If(self.clear):
            m.d.sync += part.eq(0)


class Fetch(wiring.Component):
    """Reads `count` instructions from `address` onwards, ahead of their use.

    Bursts end at multiples of the burst size, so they never cross a 4 KiB boundary. A burst is asked for only when the
    queue has room for all of it, so that `port.r` is always ready and never holds up the load engine behind it; so at
    most two bursts are in flight.

    A failed beat is reported when its instruction would be next: everything before it is given out first.
    An address that is not a multiple of beat and instruction size, or a program that reaches 2**address_bits, is
    MEMORY_ALIGNMENT; more than 2**24 instructions is BAD_FIELD. Nothing is fetched then.

    Timing
    ------
    The first read request is offered 1 cycle after `start`, the first instruction 1 cycle after its last beat. One
    instruction a cycle, or one in 256 / data_bits cycles. After `stop` no request is offered, except one that was
    offered before; `busy` falls when the last beat has come.

    Parameters
    ----------
    arch : Arch

    Members
    -------
    port : Out(ReadSignature)
    o : Out(stream of InstructionWord)
    start : In(1)               Pulse; takes `address` and `count` and forgets what an earlier run left.
    address : In(64)            Byte address of the program.
    count : In(32)              Instructions.
    stop : In(1)                Request nothing more.
    busy : Out(1)               Reads are under way.
    finished : Out(1)           All instructions have been given out.
    pc : Out(24)                Index of the next instruction.
    error : Out(ErrorLayout), error_valid : Out(1)      Held until the next start.
    """

    def __init__(self, *, arch: Arch) -> None:
        self._arch = arch
        super().__init__(
            {
                "port": Out(ReadSignature(arch)),
                "o": Out(stream.Signature(InstructionWord())),
                "start": In(1),
                "address": In(2 * REGISTER_BITS),
                "count": In(REGISTER_BITS),
                "stop": In(1),
                "busy": Out(1),
                "finished": Out(1),
                "pc": Out(PC_BITS),
                "error": Out(ErrorLayout()),
                "error_valid": Out(1),
            }
        )

    @property
    def burst(self) -> int:
        """Beats of a full burst."""
        return min(self._arch.memory.burst_beats, max(1, _PREFETCH * INSTRUCTION_BYTES // self._arch.beat_bytes))

    def elaborate(self, platform: object) -> Module:
        """Check the address, request bursts, queue beats, unpack them."""
        m = Module()
        bits = self._arch.memory.data_bits
        m.submodules.queue = queue = Queue(shape=_Beat(bits), depth=2 * self.burst)
        m.submodules.unpacker = unpacker = Unpacker(data_bits=bits)
        count = Signal(PC_BITS + 1)
        bad = self._elaborate_check(m)
        in_flight = self._elaborate_requests(m, queue, bad)

        # Beats
        m.d.comb += [
            queue.i.valid.eq(self.port.r.valid),
            queue.i.p.data.eq(self.port.r.p.data),
            queue.i.p.failed.eq(self.port.r.p.resp[1]),
            self.port.r.ready.eq(queue.i.ready),
            queue.clear.eq(self.start),
            unpacker.clear.eq(self.start),
            unpacker.count.eq(count),
            self.pc.eq(unpacker.pc),
        ]
        wiring.connect(m, queue.o, unpacker.i)
        wiring.connect(m, unpacker.o, wiring.flipped(self.o))

        # State
        bad_reg = Signal.like(bad)
        with m.If(self.start):
            m.d.sync += [bad_reg.eq(bad), count.eq(Mux(bad == Cause.NONE, self.count, 0))]
        m.d.comb += [
            self.busy.eq(self.port.ar.valid | (in_flight != 0)),
            self.finished.eq(unpacker.pc == count),
            self.error_valid.eq((bad_reg != Cause.NONE) | unpacker.failed),
            self.error.cause.eq(Mux(unpacker.failed, Cause.READ_RESPONSE, bad_reg)),
            self.error.pc.eq(self.pc),
        ]
        return m

    def _elaborate_check(self, m: Module) -> Signal:
        """Cause for which `address` and `count` are refused, or NONE."""
        align = max(INSTRUCTION_BYTES, self._arch.beat_bytes)
        end = Signal(2 * REGISTER_BITS + 1)
        bad = Signal(ErrorLayout()["cause"].shape)
        m.d.comb += end.eq(self.address + self.count * INSTRUCTION_BYTES)
        with m.If(self.count == 0):
            m.d.comb += bad.eq(Cause.NONE)
        with m.Elif((self.address & (align - 1)).any() | (end > 1 << self._arch.memory.address_bits)):
            m.d.comb += bad.eq(Cause.MEMORY_ALIGNMENT)
        with m.Elif(self.count > 1 << PC_BITS):
            m.d.comb += bad.eq(Cause.BAD_FIELD)
        return bad

    def _elaborate_requests(self, m: Module, queue: Queue, bad: Signal) -> Signal:
        """Offer bursts; returns the number of beats requested and not yet received."""
        burst, depth = self.burst, queue.depth
        request, answer = self.port.ar, self.port.r
        beat_shift = exact_log2(self._arch.beat_bytes)
        address = Signal(self._arch.memory.address_bits, reset_less=True)
        per_beat, beats_each = self._arch.beat_bytes // INSTRUCTION_BYTES, INSTRUCTION_BYTES // self._arch.beat_bytes
        left = Signal(range((max(1, beats_each) << PC_BITS) + 1))
        in_flight = Signal(range(depth + 1))

        # Offer
        to_boundary = burst - address[beat_shift:][: exact_log2(burst)]
        length = Signal(range(burst + 1))
        m.d.comb += [
            length.eq(Mux(left < to_boundary, left, to_boundary)),
            request.valid.eq((left != 0) & (in_flight + queue.level <= depth - burst)),
            request.p.addr.eq(address),
            request.p.len.eq(length - 1),
        ]

        # Count
        do_request, do_answer = request.valid & request.ready, answer.valid & answer.ready
        m.d.sync += in_flight.eq(in_flight + Mux(do_request, length, 0) - do_answer)
        with m.If(do_request):
            m.d.sync += [left.eq(left - length), address.eq(address + (length << beat_shift))]
        with m.If(self.stop & (do_request | ~request.valid)):
            m.d.sync += left.eq(0)
        with m.If(self.start):
            beats = self.count * beats_each if beats_each else (self.count + per_beat - 1) >> exact_log2(per_beat)
            m.d.sync += [address.eq(self.address), left.eq(Mux(bad == Cause.NONE, beats, 0))]
        return in_flight
