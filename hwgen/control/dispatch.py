"""Checks instructions against the instruction table and hands them to their engine's queue."""

from collections.abc import Collection

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch.isa import TABLE, Cause, Engine, Instruction, Opcode, mask_of
from hwgen.arch.registers import FETCH
from hwgen.control.words import HEADER_BITS, InstructionWord, QueueEntry
from hwgen.lib.shapes import ALL_ENGINES, ErrorLayout, engine_places, instruction_layout


class Dispatch(wiring.Component):
    """Sends each instruction to the queue of its engine, in program order; waits while that queue is full.

    An unknown opcode, or one of an engine that the design lacks, is BAD_OPCODE, reported for engine FETCH. A field
    outside the range in its table, a reserved bit that is set or a token for oneself or for an engine that does not
    exist is BAD_FIELD, reported for the engine that should have executed it. After an error nothing more is taken until
    `clear`.

    Timing
    ------
    Latency 1 cycle; one instruction a cycle. The error rises in the cycle in which the instruction would be on `o`.

    Parameters
    ----------
    engines : Engines of the design.

    Members
    -------
    i : In(stream of InstructionWord)
    o : Out(stream of QueueEntry) of each engine
    error : Out(ErrorLayout), error_valid : Out(1), error_engine : Out(8)   Held until `clear`.
    empty : Out(1)      No instruction is held.
    clear : In(1)       Forget everything.
    """

    LATENCY = 1

    def __init__(self, engines: Collection[Engine] = ALL_ENGINES) -> None:
        self._engines = engines
        super().__init__(
            {
                "i": In(stream.Signature(InstructionWord())),
                "o": Out(stream.Signature(QueueEntry(engine_places(engines)))).array(engine_places(engines)),
                "error": Out(ErrorLayout()),
                "error_valid": Out(1),
                "error_engine": Out(8),
                "empty": Out(1),
                "clear": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Judge the instruction at the input; hold it with its verdict for a queue."""
        m = Module()
        held = Signal(QueueEntry(engine_places(self._engines)), reset_less=True)
        target = Signal(engine_places(self._engines))
        verdict = _Verdict(self.i.p.word, self._engines)
        verdict.elaborate(m)

        # Output
        leaving = Signal()
        for index, port in enumerate(self.o):
            m.d.comb += [port.payload.eq(held), port.valid.eq(target[index])]
        m.d.comb += [
            leaving.eq(Cat(port.valid & port.ready for port in self.o).any()),
            self.empty.eq(target == 0),
            self.error.pc.eq(held.pc),
        ]
        with m.If(leaving):
            m.d.sync += target.eq(0)

        # Input
        m.d.comb += self.i.ready.eq(((target == 0) | leaving) & ~self.error_valid)
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [
                held.pc.eq(self.i.p.pc),
                held.wait.eq(verdict.header.wait),
                held.signal.eq(verdict.header.signal),
                held.opcode.eq(verdict.header.opcode),
                held.operands.eq(self.i.p.word[HEADER_BITS:]),
                target.eq(Mux(verdict.cause == Cause.NONE, verdict.target, 0)),
                self.error_valid.eq(verdict.cause != Cause.NONE),
                self.error.cause.eq(verdict.cause),
                self.error_engine.eq(verdict.engine),
            ]

        with m.If(self.clear):
            m.d.sync += [target.eq(0), self.error_valid.eq(0)]
        return m


class _Verdict:
    """What the instruction table says about a word, combinationally.

    target : one bit for each engine. engine : number for STATUS. cause : `Cause`, NONE if the word may run.
    """

    def __init__(self, word: Value, engines: Collection[Engine]) -> None:
        self._word, self._engines = word, engines
        layout = instruction_layout(TABLE[Opcode.LOAD])  # the header is the same in every row
        self.header = data.View(layout, word[: layout.size])
        self.target = Signal(engine_places(engines))
        self.engine = Signal(8)
        self.cause = Signal(ErrorLayout()["cause"].shape)

    def elaborate(self, m: Module) -> None:
        """One case for each opcode."""
        with m.Switch(self.header.opcode):
            for row in TABLE.values():
                if row.engine not in self._engines:
                    continue
                with m.Case(row.opcode):
                    m.d.comb += [
                        self.target.eq(1 << row.engine),
                        self.engine.eq(row.engine),
                        self.cause.eq(Mux(self._broken(row), Cause.BAD_FIELD, Cause.NONE)),
                    ]
            with m.Default():
                m.d.comb += [self.engine.eq(FETCH), self.cause.eq(Cause.BAD_OPCODE)]

    def _broken(self, row: Instruction) -> Value:
        """Whether a rule that a single field or mask can break is broken."""
        fields = data.View(instruction_layout(row), self._word[: instruction_layout(row).size])
        others = mask_of(self._engines) & ~(1 << row.engine)
        rules = [(fields[mask] & ~others & 0xFF).any() for mask in ("wait", "signal")]
        for item in row.fields:
            if item.low > 0:
                rules.append(fields[item.name] < item.low)
            if not item.signed and item.limit < (1 << item.width) - 1:
                rules.append(fields[item.name] > item.limit)
        rules.append(self._word[instruction_layout(row).size :].any())
        return Cat(rules).any()
