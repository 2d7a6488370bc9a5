"""Bursts of a strided block of external memory: the address side of the load and store engines."""

from amaranth.hdl import Module, Mux, Signal, Value, ValueLike, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch import Arch
from hwgen.lib.shapes import PC_BITS

PAGE_BYTES = 4096
"""No AXI burst crosses a multiple of this."""
BYTE_ADDRESS_BITS = 48
STRIDE_BITS = 32
ROW_BITS = 16
PLANE_BITS = 22
"""Planes of a row: STORE writes each of up to 2**16 words of 64 columns as a plane of its own."""
BEAT_BITS = 33
"""Beats of a whole block: 2**16 rows of 2**16 words of two beats."""


def beat_log2(arch: Arch) -> int:
    """Logarithm of the bytes of a beat."""
    return arch.beat_bytes.bit_length() - 1


class Block(data.StructLayout):
    """`rows` rows, `stride` bytes apart (negative: downwards), of `planes` runs, `plane_stride` bytes apart, of `beats`
    beats.

    The first is at byte address `address`; all counts are at least 1. `pc` is the instruction that asked for it, `tag`
    whatever its bursts are to say.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "pc": PC_BITS,
                "tag": 1,
                "address": BYTE_ADDRESS_BITS,
                "stride": signed(STRIDE_BITS + 1),
                "rows": ROW_BITS,
                "plane_stride": STRIDE_BITS,
                "planes": PLANE_BITS,
                "beats": BEAT_BITS,
            }
        )


class Burst(data.StructLayout):
    """One burst: byte address, beats - 1 (`len`, as in AXI), whether it is the `last` of its block; its `pc`, `tag`."""

    def __init__(self, arch: Arch) -> None:
        super().__init__({"pc": PC_BITS, "tag": 1, "address": arch.memory.address_bits, "len": 8, "last": 1})


def merge_runs(
    arch: Arch,
    *,
    stride: Value,
    rows: Value,
    plane_stride: ValueLike,
    planes: Value,
    beats: Value,
    row_beats: Value,
    block_beats: Value,
) -> dict[str, Value]:
    """Counts of a `Block` in which runs, and then rows, that follow one another without a gap are one long run.

    `row_beats` is `planes * beats`, `block_beats` is `rows * row_beats`.
    """
    shift = beat_log2(arch)
    whole_row = (planes == 1) | (plane_stride == (beats << shift))
    whole_block = whole_row & (stride == (row_beats << shift))
    return {
        "rows": Mux(whole_block, 1, rows),
        "planes": Mux(whole_row, 1, planes),
        "beats": Mux(whole_block, block_beats, Mux(whole_row, row_beats, beats)),
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
    outside : Out(1)   The next burst would start below 0 or at or above 2**address_bits; nothing more is offered until
                       `clear`.
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
        """Where the next burst starts, and how long it is; the counters move on when it is taken."""
        m = Module()
        arch, shift = self._arch, beat_log2(self._arch)
        active = Signal()
        held = Signal(Block(), reset_less=True)
        address = Signal(BYTE_ADDRESS_BITS + 1 - shift, reset_less=True)
        beats_left = Signal(BEAT_BITS, reset_less=True)
        room = self._room(m, address)
        count = Signal.like(room)
        run_end = beats_left <= room
        do_burst = self.o.valid & self.o.ready
        do_block = self.i.valid & self.i.ready
        next_run, last = self._runs(m, held, do_burst & run_end, do_block)
        m.d.comb += [
            count.eq(Mux(run_end, beats_left, room)),
            self.busy.eq(active),
            self.outside.eq(active & (address[arch.memory.address_bits - shift :] != 0)),
            self.o.valid.eq(active & ~self.outside),
            self.o.payload.pc.eq(held.pc),
            self.o.payload.tag.eq(held.tag),
            self.o.payload.address.eq(address << shift),
            self.o.payload.len.eq(count - 1),
            self.o.payload.last.eq(run_end & last),
            self.i.ready.eq(~active | (do_burst & run_end & last)),
        ]
        with m.If(do_block):
            m.d.sync += [
                active.eq(1),
                held.eq(self.i.payload),
                address.eq(self.i.payload.address >> shift),
                beats_left.eq(self.i.payload.beats),
            ]
        with m.Elif(do_burst & run_end):
            m.d.sync += [address.eq(next_run), beats_left.eq(held.beats), active.eq(~last)]
        with m.Elif(do_burst):
            m.d.sync += [address.eq(address + count), beats_left.eq(beats_left - count)]
        with m.If(self.clear):
            m.d.sync += active.eq(0)
        return m

    def _runs(self, m: Module, held: data.View, do_run: Value, do_block: Value) -> tuple[Value, Value]:
        """Count planes and rows as runs end; gives the address of the next run, in beats, and if this is the last."""
        shift, block = beat_log2(self._arch), self.i.payload
        run_address = Signal(BYTE_ADDRESS_BITS + 1 - shift, reset_less=True)
        row_address = Signal.like(run_address)
        next_run = Signal.like(run_address)
        planes_left = Signal(PLANE_BITS, reset_less=True)
        rows_left = Signal(ROW_BITS, reset_less=True)
        row_end = planes_left == 1
        stride = Mux(row_end, held.stride, held.plane_stride)
        m.d.comb += next_run.eq(Mux(row_end, row_address, run_address) + (stride >> shift))
        with m.If(do_block):
            m.d.sync += [
                run_address.eq(block.address >> shift),
                row_address.eq(block.address >> shift),
                planes_left.eq(block.planes),
                rows_left.eq(block.rows),
            ]
        with m.Elif(do_run):
            m.d.sync += [run_address.eq(next_run), planes_left.eq(planes_left - 1)]
            with m.If(row_end):
                m.d.sync += [row_address.eq(next_run), planes_left.eq(held.planes), rows_left.eq(rows_left - 1)]
        return next_run, row_end & (rows_left == 1)

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
