"""Large on-chip memory with one write and one read port."""

from importlib import resources

from amaranth.hdl import ClockSignal, Instance, Module, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hwgen.lib.shared import EmitPlatform

VERILOG = resources.files("rtl") / "ram_1r1w.v"
"""The module that every emitted `Ram` is an instance of; one place to put the memory macros of a process."""


class Ram(wiring.Component):
    """`depth` words of `width` bits, zero at power-up.

    Emitted as an instance of `ram_1r1w`, so that scratchpads are a line of Verilog each and can be mapped in one place.

    Timing
    ------
    `read_data` is the word of `read_address` one cycle later. A word written in a cycle is read from the next one on; a
    read in the same cycle returns the old word.

    Parameters
    ----------
    width, depth : int
    parts : int          Write enables; each covers width / parts bits.

    Members
    -------
    read_address : In, read_data : Out(width)
    write_enable : In(parts), write_address : In, write_data : In(width)
    """

    def __init__(self, *, width: int, depth: int, parts: int = 1) -> None:
        if width % parts:
            raise ValueError(f"Ram width ({width}) must be a multiple of parts ({parts})")
        self.width, self.depth, self.parts = width, depth, parts
        self.address_bits = max(1, (depth - 1).bit_length())
        super().__init__(
            {
                "read_address": In(self.address_bits),
                "read_data": Out(width),
                "write_enable": In(parts),
                "write_address": In(self.address_bits),
                "write_data": In(width),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """An instance when Verilog is emitted, Amaranth's memory in its own simulator."""
        m = Module()
        if isinstance(platform, EmitPlatform):
            sizes = {
                "p_WIDTH": self.width,
                "p_DEPTH": self.depth,
                "p_ADDRESS": self.address_bits,
                "p_PARTS": self.parts,
            }
            ports = {
                f"{'i' if member.flow is In else 'o'}_{name}": getattr(self, name)
                for name, member in self.signature.members.items()
            }
            m.submodules.ram = Instance("ram_1r1w", **sizes, i_clk=ClockSignal(), **ports)
            return m
        m.submodules.memory = memory = Memory(shape=unsigned(self.width), depth=self.depth, init=[])
        write = memory.write_port(granularity=self.width // self.parts)
        read = memory.read_port()
        m.d.comb += [
            read.addr.eq(self.read_address),
            self.read_data.eq(read.data),
            write.addr.eq(self.write_address),
            write.data.eq(self.write_data),
            write.en.eq(self.write_enable),
        ]
        return m
