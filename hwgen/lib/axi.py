"""AXI4 and AXI4-Lite as stream signatures, master's view; `hwgen/top.py` flattens them to the standard port names."""

from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch import Arch

OKAY = 0
"""RRESP/BRESP of a successful transfer; SLVERR is 2, DECERR is 3."""


class AddressLayout(data.StructLayout):
    """AR or AW: byte address, beats - 1, identifier. Size is always the full bus, bursts always INCR."""

    def __init__(self, arch: Arch) -> None:
        super().__init__({"addr": arch.memory.address_bits, "len": 8, "id": 1})


class ReadSignature(wiring.Signature):
    """AXI4 read channels of a master. `ar`: AddressLayout; `r`: data, resp, last, id."""

    def __init__(self, arch: Arch) -> None:
        beat = data.StructLayout({"data": arch.memory.data_bits, "resp": 2, "last": 1, "id": 1})
        super().__init__({"ar": Out(stream.Signature(AddressLayout(arch))), "r": In(stream.Signature(beat))})


class WriteSignature(wiring.Signature):
    """AXI4 write channels of a master. `aw`: AddressLayout; `w`: data, last, and with `strobes` a bit for each byte
    that is written (without, all are); `b`: resp.
    """

    def __init__(self, arch: Arch, *, strobes: bool = False) -> None:
        marks = {"strobes": arch.beat_bytes} if strobes else {}
        beat = data.StructLayout({"data": arch.memory.data_bits, "last": 1} | marks)
        super().__init__(
            {
                "aw": Out(stream.Signature(AddressLayout(arch))),
                "w": Out(stream.Signature(beat)),
                "b": In(stream.Signature(data.StructLayout({"resp": 2}))),
            }
        )


class LiteSignature(wiring.Signature):
    """AXI4-Lite slave, seen from the slave: 32-bit data, `address_bits` of byte address."""

    def __init__(self, address_bits: int) -> None:
        super().__init__(
            {
                "aw": In(stream.Signature(address_bits)),
                "w": In(stream.Signature(data.StructLayout({"data": 32, "strb": 4}))),
                "b": Out(stream.Signature(data.StructLayout({"resp": 2}))),
                "ar": In(stream.Signature(address_bits)),
                "r": Out(stream.Signature(data.StructLayout({"data": 32, "resp": 2}))),
            }
        )
