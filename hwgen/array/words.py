"""Bundles that travel through the array, and the numbers that its blocks share.

A *row command* enters row 0 and moves down the rows, delayed by the hop of the dataflow; in each row it becomes the
*control* of that row's processing elements, which moves east one element a cycle. *Weights* move south one row a cycle.
"""

import enum
from dataclasses import dataclass

from amaranth.lib import data

from hwgen.arch import INDEX_BITS, Arch


class Source(enum.IntEnum):
    """Where the adder chain's first operand comes from."""

    ZERO = 0
    HELD = 1
    NORTH = 2
    FORWARD = 3


@dataclass(frozen=True)
class ElementShape:
    """Sizes of one processing element; hashable, so that equal elements are emitted once."""

    lanes: int
    act_width: int
    act_buffer: int
    weight_slots: int
    sums: int
    row_bits: int
    mul_latency: int
    add_latency: int
    operand: str
    links: int = 1

    @property
    def name(self) -> str:
        """Short text for module names."""
        return f"{self.operand}_x{self.lanes}"

    @classmethod
    def of(cls, arch: Arch) -> "ElementShape":
        """Sizes that `arch` asks for."""
        a = arch.array
        return cls(
            lanes=a.lanes,
            act_width=a.act_width,
            act_buffer=a.act_buffer,
            weight_slots=2 * a.weight_buffer,
            sums=a.interleave_max,
            row_bits=arch.row_bits,
            mul_latency=a.mul_latency,
            add_latency=a.add_latency,
            operand=a.operand,
            links=a.drain,
        )

    @property
    def act_bits(self) -> int:
        """Bits of one activation word (`act_width` operands)."""
        return 16 * self.act_width

    @property
    def chain_latency(self) -> int:
        """Cycles from the first addend to the sum."""
        return self.lanes * self.add_latency

    @property
    def read_stage(self) -> int:
        """Cycles from a beat's control reaching an element to its sum being read for the first addition."""
        return 1 + self.mul_latency

    @property
    def write_stage(self) -> int:
        """Cycles from a beat's control reaching an element to its new sum being written."""
        return self.read_stage + self.chain_latency


def index_width(count: int) -> int:
    """Bits that number `count` things, at least 1."""
    return max(1, (count - 1).bit_length())


def _operand_fields(shape: ElementShape) -> dict[str, int]:
    """Which operands a beat takes, as said in ControlLayout, with their bits."""
    ring_bits = index_width(shape.act_buffer)
    return {
        "base": ring_bits,
        "mask": ring_bits,
        "dense": 1,
        "stationary": 1,
        "slot": index_width(shape.weight_slots),
        "source": 2,
    }


class ControlLayout(data.StructLayout):
    """Control of one processing element, already aligned to its pipeline stages.

    act_write, act_word   write `act` into the ring
    base, mask            ring element of index 0; `mask` are the address bits inside the ring
    dense                 lane l takes index l instead of the stored one
    stationary            weights come from the element's weight buffer, at `slot`
    source, held          first addend, and the sum that HELD names (read stage)
    keep, leave, emit     the new sum goes to sum `target`, to drain buffer `target`, to the south (write stage)
    drain, drained        drain buffer `drained` goes to the south, on the links whose bit is set
    """

    def __init__(self, shape: ElementShape) -> None:
        sum_bits = index_width(shape.sums)
        super().__init__(
            {
                "act_write": 1,
                "act_word": index_width(shape.act_buffer // shape.act_width),
                **_operand_fields(shape),
                "held": sum_bits,
                "keep": 1,
                "leave": 1,
                "emit": 1,
                "target": sum_bits,
                "drain": shape.links,
                "drained": sum_bits,
            }
        )


class WeightLayout(data.StructLayout):
    """Weights moving south: `lanes` values and indices.

    With `load`, they go into slot `slot` of the row at which `row`, one less in each row, is 0.
    """

    def __init__(self, shape: ElementShape) -> None:
        super().__init__(
            {
                "values": data.ArrayLayout(16, shape.lanes),
                "indices": data.ArrayLayout(INDEX_BITS, shape.lanes),
                "load": 1,
                "row": shape.row_bits,
                "slot": index_width(shape.weight_slots),
            }
        )


def beat_fields(shape: ElementShape) -> dict[str, int]:
    """Fields of a beat with their bits, as in ControlLayout; `sum` is both the sum that HELD names and its target.

    `flush` marks the last beat of an instruction that leaves no result.
    """
    return {
        **_operand_fields(shape),
        "sum": index_width(shape.sums),
        "keep": 1,
        "leave": 1,
        "emit": 1,
        "flush": 1,
    }


class CommandLayout(data.StructLayout):
    """Row command: what every row does, `hop` cycles after the row above.

    fetch, act_addr, act_word   read an activation word of the bank into the ring
    beat fields                 as in `beat_fields`
    drain, drain_row, drained   bit l of `drain`: row `drain_row * links + l` puts drain buffer l of `drained` on link l
    """

    def __init__(self, arch: Arch) -> None:
        shape = ElementShape.of(arch)
        super().__init__(
            {
                "fetch": 1,
                "act_addr": index_width(arch.scratchpads.act_depth * arch.array.cols // shape.act_width),
                "act_word": index_width(shape.act_buffer // shape.act_width),
                **beat_fields(shape),
                "drain": shape.links,
                "drain_row": index_width(arch.array.rows // shape.links),
                "drained": data.ArrayLayout(index_width(shape.sums), shape.links),
            }
        )


def hop_limit(arch: Arch) -> int:
    """Largest delay between rows: a weight-stationary row hands its sum on after its last slot."""
    a = arch.array
    words = min(-(-a.group_max // a.lanes), a.weight_buffer)
    rotation = max(a.chain_latency, a.weight_buffer // words)
    longest = max((words - 1) * rotation, a.weight_buffer, (a.weight_buffer - 1) * 1)
    return longest + a.chain_latency + 1
