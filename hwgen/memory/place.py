"""Where each beat of a LOAD goes: counters that follow the table of targets in ISA.md."""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch import Arch
from hwgen.arch.isa import Opcode, Target
from hwgen.lib.shapes import PC_BITS, WORD_BITS, LoadBeat, operand_layout

_PLACED = ("target", "addr", "stride", "rows", "beats", "pad", "chunk_log2")
PLACE_FIELDS = ("target", "address", "bank", "whole", "chunk_log2", "position", "part")
"""Fields of `LoadBeat` that a `Place` has too."""


class PlaceJob(data.StructLayout):
    """The operands of LOAD that say where beats go, and its `pc`."""

    def __init__(self) -> None:
        fields = operand_layout(Opcode.LOAD).members
        super().__init__({"pc": PC_BITS} | {name: fields[name] for name in _PLACED})


class Place(data.StructLayout):
    """Place of one beat.

    memory : it comes from memory, else it is padding. drop : no bank takes any of it. outside : its word does not exist.
    last : it ends its instruction, `pc`. The rest is as in `LoadBeat`.
    """

    def __init__(self, arch: Arch) -> None:
        fields = LoadBeat(arch).members
        flags = {"pc": PC_BITS, "memory": 1, "drop": 1, "outside": 1, "last": 1}
        super().__init__(flags | {name: fields[name] for name in PLACE_FIELDS})


class BeatPlacer(wiring.Component):
    """Gives the place of every beat of an instruction, in order.

    Timing
    ------
    The first place is offered 1 cycle after the job has been taken; one place a cycle, also from job to job.

    Parameters
    ----------
    arch : Arch

    Members
    -------
    i : In(stream of PlaceJob)   Checked: `beats + pad >= 1` and `rows >= 1`.
    o : Out(stream of Place)
    clear : In(1)                Forget the job under way.
    """

    LATENCY = 1

    def __init__(self, arch: Arch) -> None:
        self._arch = arch
        super().__init__(
            {"i": In(stream.Signature(PlaceJob())), "o": Out(stream.Signature(Place(arch))), "clear": In(1)}
        )

    def elaborate(self, platform: object) -> Module:
        """Join the counters of the block and those of the place."""
        m = Module()
        active = Signal()
        job = Signal(PlaceJob(), reset_less=True)
        do_beat = Signal()
        do_job = Signal()
        m.d.comb += [
            do_beat.eq(self.o.valid & self.o.ready),
            do_job.eq(self.i.valid & self.i.ready),
            self.i.ready.eq(~active | (do_beat & self.o.payload.last)),
            self.o.valid.eq(active),
            self.o.payload.pc.eq(job.pc),
            self.o.payload.target.eq(job.target),
            self.o.payload.chunk_log2.eq(job.chunk_log2),
        ]
        with m.If(do_job):
            m.d.sync += [job.eq(self.i.payload), active.eq(1)]
        with m.Elif(do_beat & self.o.payload.last):
            m.d.sync += active.eq(0)
        with m.If(self.clear):
            m.d.sync += active.eq(0)
        row_end = self._count(m, job, do_beat, do_job)
        self._place(m, job, do_beat, do_job, row_end)
        return m

    def _count(self, m: Module, job: data.View, do_beat: Value, do_job: Value) -> Value:
        """Beats and padding left in the row, rows left; gives whether this beat ends its row."""
        beats_left = Signal.like(job.beats, reset_less=True)
        pad_left = Signal.like(job.pad, reset_less=True)
        rows_left = Signal.like(job.rows, reset_less=True)
        memory = beats_left != 0
        row_end = Signal()
        m.d.comb += [
            row_end.eq(Mux(memory, (beats_left == 1) & (pad_left == 0), pad_left == 1)),
            self.o.payload.memory.eq(memory),
            self.o.payload.last.eq(row_end & (rows_left == 1)),
        ]
        with m.If(do_job):
            first = self.i.payload
            m.d.sync += [beats_left.eq(first.beats), pad_left.eq(first.pad), rows_left.eq(first.rows)]
        with m.Elif(do_beat & row_end):
            m.d.sync += [beats_left.eq(job.beats), pad_left.eq(job.pad), rows_left.eq(rows_left - 1)]
        with m.Elif(do_beat & memory):
            m.d.sync += beats_left.eq(beats_left - 1)
        with m.Elif(do_beat):
            m.d.sync += pad_left.eq(pad_left - 1)
        return row_end

    def _place(self, m: Module, job: data.View, do_beat: Value, do_job: Value, row_end: Value) -> None:
        """Word, bank, position and part of this beat, and how they go on."""
        arch, place = self._arch, self.o.payload
        cols, lanes, depth = arch.array.cols, arch.array.lanes, arch.scratchpads
        cols_log2 = cols.bit_length() - 1
        base = Signal(WORD_BITS + 1, reset_less=True)
        word = Signal.like(base)
        bank = Signal(arch.row_bits, reset_less=True)
        past = Signal(reset_less=True)
        position = Signal.like(place.position, reset_less=True)
        run = Signal(4, reset_less=True)
        """Beats since the word (WGT, ACC32) or the bank (ACT_CHUNKS) last changed."""

        # Shape of the walk, from the target.
        chunks = job.target == Target.ACT_CHUNKS
        whole = ~chunks | (job.chunk_log2 >= cols_log2)
        beats_per_chunk = Signal(5)
        run_last = Signal(4)
        with m.Switch(job.target):
            with m.Case(Target.ACT_CHUNKS):
                m.d.comb += run_last.eq(beats_per_chunk - 1)
            with m.Case(Target.WGT):
                m.d.comb += run_last.eq(lanes - 1)
            with m.Case(Target.ACC32):
                m.d.comb += run_last.eq(1)
        m.d.comb += beats_per_chunk.eq(Mux(whole, (1 << job.chunk_log2) >> cols_log2, 1))
        run_end = run == run_last

        # Next row: a new base, and for ACT_ROWS the next bank, for small chunks the next position.
        next_base = Signal.like(base)
        next_position = Signal(len(position) + 1)
        m.d.comb += [
            next_position.eq(position + (1 << job.chunk_log2)[: len(position) + 1]),
            next_base.eq(base + job.stride),
        ]
        with m.If(chunks):
            m.d.comb += next_base.eq(base + Mux(whole, beats_per_chunk, next_position[-1]))
        with m.Elif((job.target == Target.ACT_ROWS) & (bank != arch.array.rows - 1)):
            m.d.comb += next_base.eq(base)
        chunk_banks = Mux(whole, 1, cols >> job.chunk_log2)
        next_bank = Signal(max(arch.row_bits, cols_log2) + 2)
        m.d.comb += next_bank.eq(bank + chunk_banks)

        with m.If(do_job):
            addr = self.i.payload.addr
            m.d.sync += [base.eq(addr), word.eq(addr), bank.eq(0), past.eq(0), position.eq(0), run.eq(0)]
        with m.Elif(do_beat & row_end):
            m.d.sync += [base.eq(next_base), word.eq(next_base), past.eq(0), run.eq(0)]
            m.d.sync += bank.eq(Mux(job.target == Target.ACT_ROWS, bank + 1, 0))
            with m.If(chunks & ~whole):
                m.d.sync += position.eq(next_position)
        with m.Elif(do_beat):
            m.d.sync += run.eq(Mux(run_end, 0, run + 1))
            with m.If(chunks):
                m.d.sync += word.eq(Mux(run_end, base, word + 1))
                with m.If(run_end):
                    m.d.sync += [bank.eq(next_bank), past.eq(past | (next_bank >= arch.array.rows))]
            with m.Elif(run_end):
                m.d.sync += word.eq(word + Mux(job.target == Target.IDX, 4 // lanes, 1))

        limits = {Target.WGT: depth.wgt_depth, Target.IDX: depth.wgt_depth} | dict.fromkeys(
            (Target.ACC32, Target.ACC16), depth.acc_depth
        )
        outside = word >= depth.act_depth
        for target, limit in limits.items():
            outside = Mux(job.target == target, word >= limit, outside)
        m.d.comb += [
            place.address.eq(word),
            place.bank.eq(bank),
            place.whole.eq(whole),
            place.position.eq(position),
            place.part.eq(run),
            place.drop.eq(past),
            place.outside.eq(outside & ~past),
        ]
