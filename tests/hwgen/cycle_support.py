"""A Verilated component without handshakes: what its ports show, cycle by cycle."""

from collections.abc import Mapping, Sequence

import numpy as np
from amaranth.lib import wiring

from hwgen.lib.shared import PortDirection, component_ports
from sim.block import Block


class CycleBlock:
    """Applies a mapping from port to bits in each cycle; ports left out are 0. State is kept between calls."""

    def __init__(self, component: wiring.Component, name: str) -> None:
        self.component = component
        self._block = Block.of(component, name)
        self._inputs, self._outputs = {}, {}
        for port, (value, direction) in component_ports(component).items():
            places = self._inputs if direction is PortDirection.Input else self._outputs
            start = max((place.stop for place in places.values()), default=0)
            places[port] = slice(start, start + 4 * ((len(value) + 31) // 32))

    def run(self, cycles: Sequence[Mapping[str, int]]) -> list[dict[str, int]]:
        """What the outputs show in each cycle, just before the clock edge."""
        size = max(place.stop for place in self._inputs.values())
        rows = np.zeros((len(cycles), size), np.uint8)
        for row, values in zip(rows, cycles):
            for port, value in values.items():
                place = self._inputs[port]
                row[place] = np.frombuffer(value.to_bytes(place.stop - place.start, "little"), np.uint8)
        out = self._block.run(rows.view(np.uint32)).view(np.uint8)
        return [
            {port: int.from_bytes(row[place].tobytes(), "little") for port, place in self._outputs.items()}
            for row in out
        ]
