"""Bursts of a strided block of external memory: the address side of the load and store engines."""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch import Arch
from hwgen.lib.shapes import PC_BITS

PAGE_BYTES = 4096
"""No AXI burst crosses a multiple of this."""
BYTE_ADDRESS_BITS = 48
STRIDE_BITS = 32
ROW_BITS = 16
BEAT_BITS = 33
"""Beats of a whole block: 2**16 rows of 2**16 words of two beats."""


def beat_log2(arch: Arch) -> int:
    """Logarithm of the bytes of a beat."""
    return arch.beat_bytes.bit_length() - 1


class Block(data.StructLayout):
    """`rows` rows of `beats` beats from byte address `address`, `stride` bytes apart; both counts are at least 1.

    `pc` is the instruction that asked for it.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "pc": PC_BITS,
                "address": BYTE_ADDRESS_BITS,
                "stride": STRIDE_BITS,
                "rows": ROW_BITS,
                "beats": BEAT_BITS,
            }
        )


class Burst(data.StructLayout):
    """One burst: byte address, beats - 1 (`len`, as in AXI), whether it is the `last` of its block, and whose."""

    def __init__(self, arch: Arch) -> None:
        super().__init__({"pc": PC_BITS, "address": arch.memory.address_bits, "len": 8, "last": 1})


def describe_block(
    arch: Arch, *, pc: Value, address: Value, stride: Value, rows: Value, beats: Value
) -> dict[str, Value]:
    """Fields of a `Block`, with rows that follow one another without a gap merged into one long row."""
    joined = stride == (beats << beat_log2(arch))
    return {
        "pc": pc,
        "address": address,
        "stride": stride,
        "rows": Mux(joined, 1, rows),
        "beats": Mux(joined, beats * rows, beats),
    }


class BurstGenerator(wiring.Component):
    """Cuts blocks into bursts of at most `burst_beats` beats that never cross a 4 KiB boundary.

    Timing
    ------
    The first burst of a block is offered 1 cycle after the block has been taken; one burst a cycle, also from block to
    block.

    Parameters
    ----------
    arch : Arch

    Members
    -------
    i : In(stream of Block)
    o : Out(stream of Burst)
    busy : Out(1)      A block is under way.
    outside : Out(1)   The next burst would start at or above 2**address_bits; nothing more is offered until `clear`.
    clear : In(1)      Forget the block under way; nothing may be taken from `o` in this cycle.
    """

    LATENCY = 1

    def __init__(self, arch: Arch) -> None:
        self._arch = arch
        super().__init__(
            {
                "i": In(stream.Signature(Block())),
                "o": Out(stream.Signature(Burst(arch))),
                "busy": Out(1),
                "outside": Out(1),
                "clear": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Counters of rows and beats; addresses count beats."""
        m = Module()
        arch, block = self._arch, self.i.payload
        shift = beat_log2(arch)
        active = Signal()
        held = Signal(Block(), reset_less=True)
        address = Signal(BYTE_ADDRESS_BITS + 1 - shift, reset_less=True)
        row_address = Signal.like(address)
        beats_left = Signal(BEAT_BITS, reset_less=True)
        rows_left = Signal(ROW_BITS, reset_less=True)
        room = self._room(m, address)
        count = Signal.like(room)
        row_end = beats_left <= room
        last = row_end & (rows_left == 1)
        m.d.comb += [
            count.eq(Mux(row_end, beats_left, room)),
            self.busy.eq(active),
            self.outside.eq(active & (address[arch.memory.address_bits - shift :] != 0)),
            self.o.valid.eq(active & ~self.outside),
            self.o.payload.pc.eq(held.pc),
            self.o.payload.address.eq(address << shift),
            self.o.payload.len.eq(count - 1),
            self.o.payload.last.eq(last),
        ]

        # Next burst of the row, or of the next row.
        do_burst = self.o.valid & self.o.ready
        next_row = row_address + (held.stride >> shift)
        with m.If(do_burst):
            m.d.sync += [address.eq(address + count), beats_left.eq(beats_left - count)]
            with m.If(row_end):
                m.d.sync += [
                    address.eq(next_row),
                    row_address.eq(next_row),
                    beats_left.eq(held.beats),
                    rows_left.eq(rows_left - 1),
                    active.eq(~last),
                ]

        # Next block.
        m.d.comb += self.i.ready.eq(~active | (do_burst & last))
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [
                active.eq(1),
                held.eq(block),
                address.eq(block.address >> shift),
                row_address.eq(block.address >> shift),
                beats_left.eq(block.beats),
                rows_left.eq(block.rows),
            ]
        with m.If(self.clear):
            m.d.sync += active.eq(0)
        return m

    def _room(self, m: Module, address: Value) -> Value:
        """Beats that a burst from here may have: what is left of the page, at most the longest burst."""
        page_beats = PAGE_BYTES // self._arch.beat_bytes
        longest = min(self._arch.memory.burst_beats, page_beats)
        page_left = Signal(range(page_beats + 1))
        room = Signal(range(longest + 1))
        m.d.comb += [
            page_left.eq(page_beats - (address % page_beats)),
            room.eq(Mux(page_left < longest, page_left, longest)),
        ]
        return room
