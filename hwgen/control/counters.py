"""Counts what a run does, for the host-visible counters."""

from collections.abc import Collection

from amaranth.hdl import Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch.isa import Engine
from hwgen.arch.registers import TensorState
from hwgen.control.words import REGISTER_BITS
from hwgen.lib.shapes import ALL_ENGINES, engine_places, waits_for_memory


class Counts(data.StructLayout):
    """All counters; the cycles are 64 bits wide, the others wrap at 2**32."""

    def __init__(self, engines: Collection[Engine]) -> None:
        super().__init__(
            {
                "cycles": 2 * REGISTER_BITS,
                "read_beats": REGISTER_BITS,
                "write_beats": REGISTER_BITS,
                **{f"busy_{engine.name.lower()}": REGISTER_BITS for engine in engines},
                **{f"tensor_{state.name.lower()}": REGISTER_BITS for state in TensorState},
            }
        )


def read_ports(engines: Collection[Engine]) -> int:
    """Ports by which a design with `engines` reads memory."""
    return 1 + (Engine.FILL in engines) + (Engine.ATTEND in engines)


def write_ports(engines: Collection[Engine]) -> int:
    """Ports by which it writes memory."""
    return 1 + (Engine.ATTEND in engines)


class Counters(wiring.Component):
    """Counts cycles, beats, busy cycles of each engine and what the tensor engine did.

    In each cycle of a run exactly one TENSOR counter counts: the state that the engine shows, but IDLE becomes MEMORY
    while its next instruction lacks a token of LOAD, STORE, FILL or ATTEND, TOKENS while it lacks one of VECTOR only.

    Timing
    ------
    A cycle with `running` counts 1 cycle later. `clear` wins.

    Parameters
    ----------
    engines : Engines of the design. FILL has a read port of its own, ATTEND one for reading and writing.

    Members
    -------
    E is what `engine_places` says, P the number of read ports, Q that of write ports.

    running : In(1)         Count this cycle.
    clear : In(1)           All counters to zero.
    busy : In(E)            Bit e: engine e executes.
    tensor_state : In(TensorState)
    waiting : In(E)         Engines whose token the next tensor instruction lacks.
    read_beat : In(P)       Bit p: a beat passes on read port p.
    write_beat : In(Q)      Bit q: a beat is written by write port q.
    counts : Out(Counts)
    """

    def __init__(self, engines: Collection[Engine] = ALL_ENGINES) -> None:
        self._engines = engines
        super().__init__(
            {
                "running": In(1),
                "clear": In(1),
                "busy": In(engine_places(engines)),
                "tensor_state": In(range(len(TensorState))),
                "waiting": In(engine_places(engines)),
                "read_beat": In(read_ports(engines)),
                "write_beat": In(write_ports(engines)),
                "counts": Out(Counts(engines)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """One incrementer for each counter."""
        m = Module()
        state = Signal.like(self.tensor_state)
        m.d.comb += state.eq(self.tensor_state)
        with m.If(self.tensor_state == TensorState.IDLE):
            with m.If(waits_for_memory(self.waiting, self._engines)):
                m.d.comb += state.eq(TensorState.MEMORY)
            with m.Elif(self.waiting[Engine.VECTOR]):
                m.d.comb += state.eq(TensorState.TOKENS)

        events = {"cycles": 1}
        events |= {
            f"{way}_beats": sum(beat[1:], beat[0])
            for way, beat in (("read", self.read_beat), ("write", self.write_beat))
        }
        events |= {f"busy_{engine.name.lower()}": self.busy[engine] for engine in self._engines}
        events |= {f"tensor_{item.name.lower()}": state == item for item in TensorState}
        with m.If(self.running):
            for name, event in events.items():
                m.d.sync += self.counts[name].eq(self.counts[name] + event)
        with m.If(self.clear):
            m.d.sync += self.counts.eq(0)
        return m
