"""Per-engine command queues and the tokens that order engines among each other."""

from collections.abc import Collection

from amaranth.hdl import Assert, Cat, Format, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch.isa import Engine
from hwgen.control.words import QueueEntry, operand_bits
from hwgen.lib.shapes import ALL_ENGINES, PC_BITS, CommandLayout, engine_places
from hwgen.lib.streams import Queue


class _Issued(data.StructLayout):
    """What is remembered of an instruction until it is done."""

    def __init__(self, engines: int) -> None:
        super().__init__({"pc": PC_BITS, "signal": engines})


class EngineQueue(wiring.Component):
    """Holds the instructions of one engine and starts them in order, when their tokens are there.

    The tokens of the `wait` mask are taken all at once, in the cycle in which the engine accepts the command. Up to
    `IN_FLIGHT` commands may be accepted and not done; each `done` gives the tokens of the oldest one.

    Timing
    ------
    An instruction that enters an empty queue is offered 1 cycle later, if its tokens are there. One a cycle.
    `give` is in the cycle of `done`, which must be at least 1 cycle after the engine accepted the command.
    `stop` withdraws a command that is offered and not accepted; nothing else makes `command.valid` fall.

    Parameters
    ----------
    engine : Engine     Decides how many operand bits are stored.
    depth : int         Instructions that can wait.
    engines : Engines of the design; E is what `engine_places` says.

    Members
    -------
    i : In(stream of QueueEntry)
    command : Out(stream of CommandLayout)
    done : In(1)            The engine has finished its oldest command.
    available : In(E)       Bit e: there is a token from engine e.
    take : Out(E), give : Out(E)    Tokens taken from, and given to, each engine in this cycle.
    waiting : Out(E)        Engines whose token the next instruction still lacks.
    pc : Out(24)            Oldest instruction that is not done; of use while `empty` is 0.
    empty : Out(1)          Nothing waits and nothing is in flight.
    stop : In(1)            Start nothing.
    clear : In(1)           Forget everything.
    """

    IN_FLIGHT = 8

    def __init__(self, *, engine: Engine, depth: int, engines: Collection[Engine] = ALL_ENGINES) -> None:
        self._engine = engine
        self._depth = depth
        self._count = count = engine_places(engines)
        super().__init__(
            {
                "i": In(stream.Signature(QueueEntry(count))),
                "command": Out(stream.Signature(CommandLayout())),
                "done": In(1),
                "available": In(count),
                "take": Out(count),
                "give": Out(count),
                "waiting": Out(count),
                "pc": Out(PC_BITS),
                "empty": Out(1),
                "stop": In(1),
                "clear": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """A queue of instructions to start, and one of masks to signal."""
        m = Module()
        layout = QueueEntry(self._count, operand_bits(self._engine))
        m.submodules.entries = entries = Queue(shape=layout, depth=self._depth)
        m.submodules.issued = issued = Queue(shape=_Issued(self._count), depth=self.IN_FLIGHT)
        m.d.comb += [entries.clear.eq(self.clear), issued.clear.eq(self.clear)]

        # Enter
        m.d.comb += [entries.i.valid.eq(self.i.valid), self.i.ready.eq(entries.i.ready)]
        m.d.comb += [entries.i.p[name].eq(self.i.p[name]) for name, _ in layout]

        # Start
        head = entries.o.p
        do_issue = self.command.valid & self.command.ready
        m.d.comb += [
            self.waiting.eq(Mux(entries.o.valid, head.wait & ~self.available, 0)),
            self.command.valid.eq(entries.o.valid & (self.waiting == 0) & issued.i.ready & ~self.stop),
            entries.o.ready.eq(do_issue),
            self.take.eq(Mux(do_issue, head.wait, 0)),
            issued.i.valid.eq(do_issue),
            issued.i.p.pc.eq(head.pc),
            issued.i.p.signal.eq(head.signal),
        ]
        m.d.comb += [self.command.p[name].eq(head[name]) for name, _ in CommandLayout()]

        # Finish
        m.d.comb += [
            issued.o.ready.eq(self.done),
            self.give.eq(Mux(self.done & issued.o.valid, issued.o.p.signal, 0)),
            self.pc.eq(Mux(issued.o.valid, issued.o.p.pc, head.pc)),
            self.empty.eq(~entries.o.valid & ~issued.o.valid),
        ]
        m.d.sync += Assert(
            ~self.done | issued.o.valid | self.clear, Format("engine {} is done with nothing", int(self._engine))
        )
        return m


class TokenBank(wiring.Component):
    """One token counter for each ordered pair of engines.

    Timing
    ------
    A token that is given can be taken in the next cycle. Any number of pairs may change in a cycle; giving and taking
    the same token type at once leaves its count.

    Parameters
    ----------
    width : int     Bits of a counter.
    engines : Engines of the design; E is what `engine_places` says.

    Members
    -------
    give : In(E) of each engine         `give[a][b]`: engine a gives a token to engine b.
    take : In(E) of each engine         `take[b][a]`: engine b takes a token from engine a; only if available.
    available : Out(E) of each engine   `available[b][a]`: engine b has a token from engine a.
    overflow : Out(E)                   Bit a: what engine a gives in this cycle does not fit; the token is lost.
    clear : In(1)                       All counters to zero.
    """

    def __init__(self, *, width: int, engines: Collection[Engine] = ALL_ENGINES) -> None:
        self._width, self._engines = width, engines
        count = engine_places(engines)
        masks = {name: In(count).array(count) for name in ("give", "take")}
        super().__init__(
            {
                **masks,
                "available": Out(count).array(count),
                "overflow": Out(count),
                "clear": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """A counter that may go up and down."""
        m = Module()
        overflows: dict[Engine, list[Signal]] = {source: [] for source in self._engines}
        for source in self._engines:
            for sink in self._engines:
                if source == sink:
                    continue
                count = Signal(self._width, name=f"{source.name}_to_{sink.name}".lower())
                up, down = self.give[source][sink], self.take[sink][source]
                full = Signal(name=f"{source.name}_to_{sink.name}_overflows".lower())
                m.d.comb += [full.eq(up & ~down & count.all()), self.available[sink][source].eq(count != 0)]
                m.d.sync += count.eq(Mux(full, count, count + up - down))
                with m.If(self.clear):
                    m.d.sync += count.eq(0)
                overflows[source].append(full)
        m.d.comb += [self.overflow[source].eq(Cat(found).any()) for source, found in overflows.items()]
        return m
