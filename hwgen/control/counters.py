"""Counts what a run does, for the host-visible counters."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch.isa import Engine
from hwgen.arch.registers import TensorState
from hwgen.control.words import REGISTER_BITS
from hwgen.lib.shapes import ENGINE_COUNT


class Counts(data.StructLayout):
    """All counters; the cycles are 64 bits wide, the others wrap at 2**32."""

    def __init__(self) -> None:
        super().__init__(
            {
                "cycles": 2 * REGISTER_BITS,
                "read_beats": REGISTER_BITS,
                "write_beats": REGISTER_BITS,
                **{f"busy_{engine.name.lower()}": REGISTER_BITS for engine in Engine},
                **{f"tensor_{state.name.lower()}": REGISTER_BITS for state in TensorState},
            }
        )


class Counters(wiring.Component):
    """Counts cycles, beats, busy cycles of each engine and what the tensor engine did.

    In each cycle of a run exactly one TENSOR counter counts: the state that the engine shows, but IDLE becomes MEMORY
    while its next instruction lacks a token of LOAD or STORE, and TOKENS while it lacks one of VECTOR only.

    Timing
    ------
    A cycle with `running` counts 1 cycle later. `clear` wins.

    Members
    -------
    running : In(1)         Count this cycle.
    clear : In(1)           All counters to zero.
    busy : In(4)            Bit e: engine e executes.
    tensor_state : In(TensorState)
    waiting : In(4)         Engines whose token the next tensor instruction lacks.
    read_beat : In(1), write_beat : In(1)   A beat passes on the AXI port.
    counts : Out(Counts)
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "running": In(1),
                "clear": In(1),
                "busy": In(ENGINE_COUNT),
                "tensor_state": In(range(len(TensorState))),
                "waiting": In(ENGINE_COUNT),
                "read_beat": In(1),
                "write_beat": In(1),
                "counts": Out(Counts()),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """One incrementer for each counter."""
        m = Module()
        state = Signal.like(self.tensor_state)
        memory = self.waiting[Engine.LOAD] | self.waiting[Engine.STORE]
        m.d.comb += state.eq(self.tensor_state)
        with m.If(self.tensor_state == TensorState.IDLE):
            with m.If(memory):
                m.d.comb += state.eq(TensorState.MEMORY)
            with m.Elif(self.waiting[Engine.VECTOR]):
                m.d.comb += state.eq(TensorState.TOKENS)

        events = {"cycles": 1, "read_beats": self.read_beat, "write_beats": self.write_beat}
        events |= {f"busy_{engine.name.lower()}": self.busy[engine] for engine in Engine}
        events |= {f"tensor_{item.name.lower()}": state == item for item in TensorState}
        with m.If(self.running):
            for name, event in events.items():
                m.d.sync += self.counts[name].eq(self.counts[name] + event)
        with m.If(self.clear):
            m.d.sync += self.counts.eq(0)
        return m
