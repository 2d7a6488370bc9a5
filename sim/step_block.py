"""A Verilated component driven from Python, one cycle a call: for streams whose next input depends on an output."""

import numpy as np
from amaranth.hdl import Module, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.lib.shared import PortDirection, component_ports
from sim.block import Block


class _Flat(wiring.Component):
    """A component whose ports have names that Verilator keeps: with one underscore, and no payload."""

    def __init__(self, inner: wiring.Component) -> None:
        self._inner, self._ports = inner, {}
        for name, (value, direction) in component_ports(inner).items():
            self._ports[name.replace("__payload", "").replace("__", "_")] = (value, direction)
        flows = {PortDirection.Input: In, PortDirection.Output: Out}
        super().__init__({name: flows[direction](len(value)) for name, (value, direction) in self._ports.items()})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.inner = self._inner
        for name, (value, direction) in self._ports.items():
            own, value = getattr(self, name), Value.cast(value)
            m.d.comb += value.eq(own) if direction is PortDirection.Input else own.eq(value)
        return m


class StepBlock:
    """A component in Verilator; state is kept between calls.

    Ports are called as in the component, with one underscore for two and without `payload`: `i`, `i_valid`, `i_ready`.
    `cycle` counts on.
    """

    def __init__(self, component: wiring.Component, name: str) -> None:
        self.component = component
        flat = _Flat(component)
        self._block = Block.of(flat, name)
        self._inputs, self._outputs = {}, {}
        for port, (value, direction) in component_ports(flat).items():
            places = self._inputs if direction is PortDirection.Input else self._outputs
            start = max((place.stop for place in places.values()), default=0)
            places[port] = slice(start, start + (len(value) + 31) // 32)
        self._words = max(place.stop for place in self._inputs.values())
        self.cycle = 0

    def step(self, **inputs: int) -> dict[str, int]:
        """One cycle: what the outputs show while the inputs are these; others are 0."""
        row = np.zeros((1, self._words), np.uint32)
        for name, value in inputs.items():
            place = self._inputs[name]
            row[0, place] = np.frombuffer(value.to_bytes(4 * (place.stop - place.start), "little"), np.uint32)
        out = self._block.run(row)[0]
        self.cycle += 1
        return {name: int.from_bytes(out[place].tobytes(), "little") for name, place in self._outputs.items()}
