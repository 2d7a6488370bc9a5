"""Where each beat of a LOAD or FILL goes: counters that follow the table of targets in ISA.md."""

from dataclasses import dataclass

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch import Arch
from hwgen.arch.isa import Opcode, Target
from hwgen.lib.shapes import PC_BITS, WORD_BITS, LoadBeat, operand_layout

_PLACED = ("target", "addr", "stride", "rows", "beats", "pad", "chunk_log2")
PLACE_FIELDS = ("target", "address", "step", "bank", "whole", "chunk_log2", "position", "part")
"""Fields of `LoadBeat` that a `Place` has too."""
PACKED_VALUES = 4
"""Beats of values before each beat of indices in PACKED."""


class PlaceJob(data.StructLayout):
    """The operands of LOAD that say where beats go, and its `pc`; `beats` are those of a row, of all its runs."""

    def __init__(self) -> None:
        fields = operand_layout(Opcode.LOAD).members
        super().__init__({"pc": PC_BITS} | {name: fields[name] for name in _PLACED})


class Place(data.StructLayout):
    """Place of one beat.

    memory : it comes from memory, else it is padding. drop : no bank takes any of it. outside : its word does
    not exist. last : it ends its instruction, `pc`. The rest is as in `LoadBeat`.
    """

    def __init__(self, arch: Arch) -> None:
        fields = LoadBeat(arch).members
        flags = {"pc": PC_BITS, "memory": 1, "drop": 1, "outside": 1, "last": 1}
        super().__init__(flags | {name: fields[name] for name in PLACE_FIELDS})


class Counters(data.StructLayout):
    """State of the placer.

    base : first word of the row. word, bank, position : place of this beat. past : the row has left the last bank.
    block : ACT_CHUNKS: word at which this round of the banks starts; PACKED: word of the first of the four slots.
    run : beats since the word (WGT, ACC32, COLS, PACKED) or the bank (ACT_CHUNKS) last changed.
    slot : PACKED: beats since the last beat of indices.
    """

    def __init__(self, arch: Arch) -> None:
        fields = LoadBeat(arch).members
        words = dict.fromkeys(("base", "block", "word"), WORD_BITS + 1)
        super().__init__(
            words | {"bank": fields["bank"], "past": 1, "position": fields["position"], "run": 4, "slot": 3}
        )


@dataclass(frozen=True)
class Shape:
    """How a target walks: `chunks` (it is ACT_CHUNKS), `whole` as in `LoadBeat`, beats of a chunk, end of a run.

    row_step, run_step : words from row to row and from run to run; ACT_CHUNKS has its own rules.
    """

    chunks: Value
    whole: Value
    chunk_beats: Value
    run_last: Value
    row_step: Value
    run_step: Value


class BeatPlacer(wiring.Component):
    """Gives the place of every beat of an instruction, in order.

    Timing
    ------
    The first place is offered 1 cycle after the job has been taken; one place a cycle, also from job to job.

    Parameters
    ----------
    arch : Arch
    acc_only : bool     All targets are in the accumulators, so that the rules of the others are left out.

    Members
    -------
    i : In(stream of PlaceJob)   Checked: `beats + pad >= 1` and `rows >= 1`.
    o : Out(stream of Place)
    clear : In(1)                Forget the job under way.
    """

    LATENCY = 1

    def __init__(self, arch: Arch, *, acc_only: bool = False) -> None:
        self._arch, self._acc_only = arch, acc_only
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
        ]
        with m.If(do_job):
            m.d.sync += [job.eq(self.i.payload), active.eq(1)]
            if self._acc_only:
                m.d.sync += job.target.eq(Cat(self.i.payload.target[0], C(Target.ACC32 >> 1, 3)))
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

    def _shape(self, m: Module, job: data.View) -> Shape:
        """How the target of a job walks through its memory."""
        array = self._arch.array
        cols_log2 = array.cols.bit_length() - 1
        chunks = job.target == Target.ACT_CHUNKS
        whole = ~chunks | (job.chunk_log2 >= cols_log2)
        chunk_beats, run_last = Signal(5), Signal(4)
        row_step, run_step = Signal(WORD_BITS), Signal(WORD_BITS)
        m.d.comb += [
            chunk_beats.eq(Mux(whole, (1 << job.chunk_log2) >> cols_log2, 1)),
            row_step.eq(job.stride),
            run_step.eq(1),
        ]
        with m.Switch(job.target):
            with m.Case(Target.ACT_CHUNKS):
                m.d.comb += run_last.eq(chunk_beats - 1)
            with m.Case(Target.WGT):
                m.d.comb += run_last.eq(array.lanes - 1)
            with m.Case(Target.COLS, Target.PACKED):
                m.d.comb += [run_last.eq(array.lanes - 1), row_step.eq(1), run_step.eq(job.stride)]
            with m.Case(Target.IDX):
                m.d.comb += run_step.eq(4 // array.lanes)
            with m.Case(Target.ACC32):
                m.d.comb += run_last.eq(1)
        return Shape(chunks, whole, chunk_beats, run_last, row_step, run_step)

    def _place(self, m: Module, job: data.View, do_beat: Value, do_job: Value, row_end: Value) -> None:
        """Counters of the place, and the place that they mean."""
        place, at = self.o.payload, Signal(Counters(self._arch), reset_less=True)
        shape = self._shape(m, job)
        addr = self.i.payload.addr
        with m.If(do_job):
            m.d.sync += [at.eq(0), at.base.eq(addr), at.block.eq(addr), at.word.eq(addr)]
        with m.Elif(do_beat & row_end):
            self._next_row(m, job, at, shape)
        with m.Elif(do_beat):
            self._next_beat(m, job, at, shape)
        indices = (job.target == Target.PACKED) & (at.slot == PACKED_VALUES)
        weights = (job.target == Target.COLS) | (job.target == Target.PACKED)
        address = Mux(indices, at.block, at.word)
        m.d.comb += [
            place.target.eq(Mux(indices, Target.IDX, Mux(weights, Target.WGT, job.target))),
            place.address.eq(address),
            place.step.eq(Mux(weights, job.stride, 1)),
            *(place[name].eq(at[name]) for name in ("bank", "position")),
            place.whole.eq(shape.whole),
            place.chunk_log2.eq(job.chunk_log2),
            place.part.eq(at.run),
            place.drop.eq(at.past),
            place.outside.eq((address >= self._depth(job.target)) & ~at.past),
        ]

    def _next_row(self, m: Module, job: data.View, at: data.View, shape: Shape) -> None:
        """ACT_ROWS goes to the next bank, ACT_CHUNKS on in all banks, the others by a stride."""
        last_bank = at.bank == self._arch.array.rows - 1
        position = Signal(len(at.position) + 1)
        base = Signal.like(at.base)
        m.d.comb += [position.eq(at.position + (1 << job.chunk_log2)), base.eq(at.base + shape.row_step)]
        with m.If(shape.chunks):
            m.d.comb += base.eq(at.base + Mux(shape.whole, shape.chunk_beats, position[-1]))
        with m.Elif((job.target == Target.ACT_ROWS) & ~last_bank):
            m.d.comb += base.eq(at.base)
        m.d.sync += [
            at.base.eq(base),
            at.block.eq(base),
            at.word.eq(base),
            at.bank.eq(Mux(job.target == Target.ACT_ROWS, at.bank + 1, 0)),
            at.past.eq(0),
            at.position.eq(Mux(shape.whole, 0, position)),
            at.run.eq(0),
            at.slot.eq(0),
        ]

    def _next_beat(self, m: Module, job: data.View, at: data.View, shape: Shape) -> None:
        """The run goes on; at its end the word does, or the bank. A beat of indices moves on nothing."""
        run_end = at.run == shape.run_last
        with m.If(shape.chunks):
            m.d.sync += [at.run.eq(Mux(run_end, 0, at.run + 1)), at.word.eq(at.word + 1)]
            with m.If(run_end):
                self._next_bank(m, job, at, shape)
        with m.Elif((job.target == Target.PACKED) & (at.slot == PACKED_VALUES)):
            m.d.sync += [at.slot.eq(0), at.block.eq(at.word)]
        with m.Else():
            m.d.sync += [at.run.eq(Mux(run_end, 0, at.run + 1)), at.slot.eq(at.slot + 1)]
            with m.If(run_end):
                m.d.sync += at.word.eq(at.word + shape.run_step)

    def _next_bank(self, m: Module, job: data.View, at: data.View, shape: Shape) -> None:
        """The next chunk goes to the next bank; behind the last one a new round starts, or the row is dropped."""
        array = self._arch.array
        bank = Signal(range(array.rows + array.cols + 1))
        block = Signal.like(at.block)
        around = bank >= array.rows
        m.d.comb += [
            bank.eq(at.bank + Mux(shape.whole, 1, array.cols >> job.chunk_log2)),
            block.eq(at.block + Mux(around, job.stride, 0)),
        ]
        m.d.sync += [
            at.bank.eq(Mux(around, 0, bank)),
            at.block.eq(block),
            at.word.eq(block),
            at.past.eq(at.past | (around & (job.stride == 0))),
        ]

    def _depth(self, target: Value) -> Value:
        """Words of the memory that a target means."""
        pads = self._arch.scratchpads
        acts = (target == Target.ACT_ROWS) | (target == Target.ACT_CHUNKS)
        wide = (target == Target.ACC32) | (target == Target.ACC16)
        entries = self._arch.vector.curve_entries
        curve = target == Target.CURVE
        return Mux(acts, pads.act_depth, Mux(wide, pads.acc_depth, Mux(curve, entries, pads.wgt_depth)))
