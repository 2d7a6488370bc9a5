"""Host-visible registers behind AXI4-Lite, generated from the register table."""

from collections.abc import Collection

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from hwgen.arch.isa import Engine
from hwgen.arch.registers import ADDRESS_BITS, MAGIC, Access, Register
from hwgen.control.words import CONSTANTS, REGISTER_BITS, RunSignature, register_shape, registers_of
from hwgen.lib.axi import OKAY, LiteSignature
from hwgen.lib.shapes import ALL_ENGINES
from hwgen.lib.streams import SkidBuffer

_BYTE = 8


def _storage_mask(item: Register) -> int:
    """Bits of a register that a host write simply sets."""
    if not item.bits:
        return (1 << REGISTER_BITS) - 1
    return sum(((1 << bits.width) - 1) << bits.low for bits in item.bits if bits.access == Access.READ_WRITE)


class RegisterFile(wiring.Component):
    """AXI4-Lite slave with the registers of `hwgen.arch.registers` and the `ap_ctrl_hs` handshake.

    Unknown offsets read 0 and ignore writes; every response is OKAY. The low two address bits are ignored, byte strobes
    are honoured. `ap_done` and ISR.done rise with `run.done`; reading CTRL clears `ap_done`, as does the next start.
    A write of `ap_start` while a run is under way is ignored. `interrupt` is GIE & IER & ISR.

    Timing
    ------
    Read data follows its address by 1 cycle. A write takes effect 1 cycle after the later of address and data was
    accepted, and `run.start` is high in the cycle after that. One read and one write a cycle.

    Parameters
    ----------
    arch_hash : int     Content of ARCH_HASH, 32 bits (see `hwgen.arch.digest.hash32`).
    engines : Engines of the design; registers of others do not exist.

    Members
    -------
    bus : Out(LiteSignature)    Seen from the slave already.
    run : Out(RunSignature)
    interrupt : Out(1)
    """

    READ_LATENCY = 1

    def __init__(self, *, arch_hash: int, engines: Collection[Engine] = ALL_ENGINES) -> None:
        if not 0 <= arch_hash < 1 << REGISTER_BITS:
            raise ValueError(f"Architecture hash must be in 0..2**32-1, not {arch_hash!r}")
        self._arch_hash, self._registers = arch_hash, registers_of(engines)
        super().__init__(
            {"bus": Out(LiteSignature(ADDRESS_BITS)), "run": Out(RunSignature(engines)), "interrupt": Out(1)}
        )

    def elaborate(self, platform: object) -> Module:
        """Write side, read side, then the handshake of a run, whose events win over the host's."""
        m = Module()
        contents = {
            item.name: Signal(register_shape(item), init=self._init(item), name=item.name.lower())
            for item in self._registers
            if item.access == Access.READ_WRITE
        }
        constants = dict(zip(CONSTANTS, (MAGIC, self._arch_hash)))
        report = {
            item.name: getattr(self.run.report, item.name.lower())
            for item in self._registers
            if item.name not in contents and item.name not in constants
        }
        self._elaborate_write(m, contents)
        self._elaborate_read(m, contents | constants | report)

        # Run
        ctrl, isr = contents["CTRL"], contents["ISR"]
        m.d.comb += [
            self.run.start.eq(ctrl.ap_start & self.run.idle),
            self.interrupt.eq(contents["GIE"].enable & contents["IER"].done & isr.done),
        ]
        m.d.comb += [
            getattr(self.run.settings, name).eq(contents[name.upper()]) for name, _ in self.run.settings.shape()
        ]
        m.d.sync += [ctrl.ap_idle.eq(self.run.idle), ctrl.ap_ready.eq(self.run.idle)]
        with m.If(ctrl.ap_start):
            m.d.sync += [ctrl.ap_start.eq(0), ctrl.ap_idle.eq(0), ctrl.ap_ready.eq(0)]
            with m.If(self.run.idle):
                m.d.sync += ctrl.ap_done.eq(0)
        with m.If(self.run.done):
            m.d.sync += [ctrl.ap_done.eq(1), ctrl.ap_idle.eq(1), ctrl.ap_ready.eq(1), isr.done.eq(1)]
        return m

    def _init(self, item: Register) -> int | dict[str, int]:
        """Power-up value of a register, in the form that its shape takes."""
        if not item.bits:
            return item.reset
        return {bits.name: item.reset >> bits.low & ((1 << bits.width) - 1) for bits in item.bits}

    def _elaborate_write(self, m: Module, contents: dict[str, Signal]) -> None:
        """Join address and data, each in a register of its own, so that they may come in any order."""
        m.submodules.address = address = SkidBuffer(shape=ADDRESS_BITS)
        m.submodules.data = word = SkidBuffer(shape=self.bus.w.payload.shape())
        wiring.connect(m, wiring.flipped(self.bus.aw), address.i)
        wiring.connect(m, wiring.flipped(self.bus.w), word.i)

        response = self.bus.b
        do_write = address.o.valid & word.o.valid & (~response.valid | response.ready)
        m.d.comb += [address.o.ready.eq(do_write), word.o.ready.eq(do_write), response.p.resp.eq(OKAY)]
        m.d.sync += response.valid.eq(do_write | (response.valid & ~response.ready))

        value = word.o.p.data
        mask = Signal(REGISTER_BITS)
        m.d.comb += mask.eq(Cat(strobe.replicate(_BYTE) for strobe in word.o.p.strb))
        with m.If(do_write), m.Switch(address.o.payload[2:]):
            for item in self._registers:
                if item.name not in contents:
                    continue
                with m.Case(item.offset >> 2):
                    stored = Value.cast(contents[item.name])
                    enabled = mask & _storage_mask(item)
                    m.d.sync += stored.eq((stored & ~enabled) | (value & enabled))
                    self._write_special(m, item, contents[item.name], value & mask)

    def _write_special(self, m: Module, item: Register, stored: Signal, ones: Value) -> None:
        """Fields where a written 1 sets (while idle) or clears."""
        for bits in item.bits:
            if bits.access == Access.WRITE_ONE_SETS:
                with m.If(ones[bits.low] & self.run.idle):
                    m.d.sync += stored[bits.name].eq(1)
            elif bits.access == Access.WRITE_ONE_CLEARS:
                with m.If(ones[bits.low]):
                    m.d.sync += stored[bits.name].eq(0)

    def _elaborate_read(self, m: Module, contents: dict[str, Value | int]) -> None:
        """One register of read data; what is cleared by reading is cleared when the address is accepted."""
        answer = self.bus.r
        do_read = self.bus.ar.valid & self.bus.ar.ready
        m.d.comb += [self.bus.ar.ready.eq(~answer.valid | answer.ready), answer.p.resp.eq(OKAY)]
        m.d.sync += answer.valid.eq(do_read | (answer.valid & ~answer.ready))
        with m.If(do_read):
            m.d.sync += answer.p.data.eq(0)
            with m.Switch(self.bus.ar.payload[2:]):
                for item in self._registers:
                    with m.Case(item.offset >> 2):
                        m.d.sync += answer.p.data.eq(Value.cast(contents[item.name]))
                        for bits in item.bits:
                            if bits.access == Access.CLEAR_ON_READ:
                                m.d.sync += contents[item.name][bits.name].eq(0)
