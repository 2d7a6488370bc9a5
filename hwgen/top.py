"""The accelerator: command processor, engines and scratchpads behind AXI4 ports and an AXI4-Lite port."""

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value, ValueLike
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch import Arch
from hwgen.arch.digest import hash32
from hwgen.arch.isa import Engine, Opcode, Target, engines
from hwgen.arch.registers import ADDRESS_BITS, TensorState
from hwgen.array.engine import TensorEngine
from hwgen.attention.engine import AttentionEngine
from hwgen.control.arbiter import ReadArbiter
from hwgen.control.control import Controller
from hwgen.control.registers import RegisterFile
from hwgen.lib.axi import LiteSignature, ReadSignature, WriteSignature
from hwgen.memory.acc import AccLoader, AccScratchpad
from hwgen.memory.load import LoadEngine
from hwgen.memory.store import StoreEngine
from hwgen.vector.engine import VectorEngine

_IDLE, _BUSY, _WAITING, _STALLED = range(4)
"""States of the engines other than the tensor engine on `activity`."""
_ATTEND_PLACE = 32
"""First bit of ATTEND in `activity`."""


class Accelerator(wiring.Component):
    """Top level with the port names that Vitis expects of a kernel with a 512-bit memory port.

    Members
    -------
    s_axi_control_* : AXI4-Lite slave, registers of hwgen/arch/REGISTERS.md
    m_axi_gmem_* : AXI4 master, INCR bursts of whole beats
    m_axi_fill_* : AXI4 master, read channels alone: what FILL reads. Only if memory.ports is 2.
    m_axi_attend_* : AXI4 master of ATTEND. Only with an attention engine.
    interrupt : Out(1)
    activity : Out(32, with an attention engine 40)   For timelines and logic analysers: 4 bits of state for each engine
                         (load 0, tensor 4, vector 8, store 12, fill 24, attend 32; the tensor engine's is TensorState,
                         the others': 0 idle, 1 busy, 2 waiting for tokens, 3 stalled), a bit for each engine that takes
                         an instruction (16, fill 28, attend 36), that ends one (20, fill 29, attend 37).
    """

    def __init__(self, arch: Arch) -> None:
        self.arch = arch
        beat, address = arch.memory.data_bits, arch.memory.address_bits
        lite = {"awaddr": In(ADDRESS_BITS), "awvalid": In(1), "awready": Out(1)}
        lite |= {"wdata": In(32), "wstrb": In(4), "wvalid": In(1), "wready": Out(1)}
        lite |= {"bresp": Out(2), "bvalid": Out(1), "bready": In(1)}
        lite |= {"araddr": In(ADDRESS_BITS), "arvalid": In(1), "arready": Out(1)}
        lite |= {"rdata": Out(32), "rresp": Out(2), "rvalid": Out(1), "rready": In(1)}
        read = {"araddr": Out(address), "arlen": Out(8), "arsize": Out(3), "arburst": Out(2), "arid": Out(1)}
        read |= {"arvalid": Out(1), "arready": In(1)}
        read |= {"rdata": In(beat), "rresp": In(2), "rlast": In(1), "rid": In(1), "rvalid": In(1), "rready": Out(1)}
        write = {"awaddr": Out(address), "awlen": Out(8), "awsize": Out(3), "awburst": Out(2)}
        write |= {"awvalid": Out(1), "awready": In(1)}
        write |= {"wdata": Out(beat), "wstrb": Out(beat // 8), "wlast": Out(1), "wvalid": Out(1), "wready": In(1)}
        write |= {"bresp": In(2), "bvalid": In(1), "bready": Out(1)}
        fill = read if arch.memory.ports == 2 else {}
        attend = read | write if arch.attention else {}
        super().__init__(
            {f"s_axi_control_{name}": member for name, member in lite.items()}
            | {f"m_axi_gmem_{name}": member for name, member in (read | write).items()}
            | {f"m_axi_fill_{name}": member for name, member in fill.items()}
            | {f"m_axi_attend_{name}": member for name, member in attend.items()}
            | {"interrupt": Out(1), "activity": Out(40 if arch.attention else 32)}
        )

    def elaborate(self, platform: object) -> Module:
        """Blocks, engine control, data paths, ports."""
        m = Module()
        arch = self.arch
        m.submodules.registers = self._registers = RegisterFile(arch_hash=hash32(arch), engines=engines(arch))
        m.submodules.controller = self._controller = Controller(arch=arch)
        m.submodules.arbiter = self._arbiter = ReadArbiter(arch=arch)
        m.submodules.load = self._load = LoadEngine(arch)
        m.submodules.tensor = self._tensor = TensorEngine(arch=arch)
        m.submodules.vector = self._vector = VectorEngine(arch)
        m.submodules.store = self._store = StoreEngine(arch)
        m.submodules.acc = self._acc = AccScratchpad(arch)
        m.submodules.acc_loader = self._acc_loader = AccLoader(arch)
        blocks = {
            Engine.LOAD: self._load,
            Engine.TENSOR: self._tensor,
            Engine.VECTOR: self._vector,
            Engine.STORE: self._store,
        }
        self._fill = None
        if Engine.FILL in engines(arch):
            m.submodules.fill = self._fill = blocks[Engine.FILL] = LoadEngine(arch, Opcode.FILL)
        self._attend = None
        if Engine.ATTEND in engines(arch):
            m.submodules.attend = self._attend = blocks[Engine.ATTEND] = AttentionEngine(arch)
        wiring.connect(m, self._registers.run, self._controller.run)
        for engine, block in blocks.items():
            wiring.connect(m, self._controller.engines[engine], block.control)
        self._data(m)
        self._lite_port(m)
        self._read_ports(m)
        self._write_ports(m)
        self._activity(m, blocks)
        return m

    def _data(self, m: Module) -> None:
        """Beats to the scratchpads, and everyone's way to the accumulators."""
        load, tensor, acc, loader = self._load, self._tensor, self._acc, self._acc_loader
        beats = load.beats
        for_acc = (beats.payload.target == Target.ACC32) | (beats.payload.target == Target.ACC16)
        for_curve = beats.payload.target == Target.CURVE
        m.d.comb += [
            loader.i.payload.eq(beats.payload),
            loader.i.valid.eq(beats.valid & for_acc),
            tensor.beats.payload.eq(beats.payload),
            tensor.beats.valid.eq(beats.valid & ~for_acc & ~for_curve),
            beats.ready.eq(Mux(for_acc, loader.i.ready, tensor.beats.ready | for_curve)),
            tensor.waiting.eq(self._controller.waiting[Engine.TENSOR]),
            self._controller.tensor_state.eq(tensor.state),
        ]
        if self.arch.vector.curve_entries:
            m.d.comb += [
                self._vector.curve.enable.eq(beats.valid & for_curve),
                self._vector.curve.address.eq(beats.payload.address),
                self._vector.curve.entry.eq(beats.payload.data[:64]),
            ]
        for user, port in (
            (tensor.acc_read, acc.read_tensor),
            *zip(self._vector.x, acc.read_vector_x),
            *zip(self._vector.y, acc.read_vector_y),
            *zip(self._vector.z, acc.read_vector_z),
            (self._store.acc, acc.read_store),
            (tensor.acc_write, acc.write_tensor),
            *zip(self._vector.d, acc.write_vector),
            (loader.write, acc.write_load),
        ):
            wiring.connect(m, user, port)
        if self._fill:
            m.submodules.acc_filler = filler = AccLoader(self.arch)
            wiring.connect(m, self._fill.beats, filler.i)
            wiring.connect(m, filler.write, acc.write_fill)
        if self.arch.array.drain == 2:
            wiring.connect(m, tensor.acc_write_odd, acc.write_tensor_odd)

    def _lite_port(self, m: Module) -> None:
        """AXI4-Lite: flat names to the register file."""
        bus: LiteSignature = self._registers.bus
        port = _Flat(self, "s_axi_control_")
        m.d.comb += [
            bus.aw.payload.eq(port.awaddr),
            bus.w.payload.data.eq(port.wdata),
            bus.w.payload.strb.eq(port.wstrb),
            bus.ar.payload.eq(port.araddr),
            port.bresp.eq(bus.b.payload.resp),
            port.rdata.eq(bus.r.payload.data),
            port.rresp.eq(bus.r.payload.resp),
            self.interrupt.eq(self._registers.interrupt),
        ]
        for channel in ("aw", "w", "ar"):
            m.d.comb += [getattr(bus, channel).valid.eq(port[f"{channel}valid"])]
            m.d.comb += [port[f"{channel}ready"].eq(getattr(bus, channel).ready)]
        for channel in ("b", "r"):
            m.d.comb += [port[f"{channel}valid"].eq(getattr(bus, channel).valid)]
            m.d.comb += [getattr(bus, channel).ready.eq(port[f"{channel}ready"])]

    def _read_ports(self, m: Module) -> None:
        """Read channels, shared by program fetch and load engine; those of FILL and ATTEND."""
        wiring.connect(m, self._controller.program, self._arbiter.fetch)
        wiring.connect(m, self._load.read, self._arbiter.load)
        self._read_port(m, self._arbiter.bus, _Flat(self, "m_axi_gmem_"))
        if self._fill:
            self._read_port(m, self._fill.read, _Flat(self, "m_axi_fill_"))
        if self._attend:
            self._read_port(m, self._attend.read, _Flat(self, "m_axi_attend_"))

    def _read_port(self, m: Module, bus: ReadSignature, port: "_Flat") -> None:
        """AXI4 read channels: flat names to a master."""
        m.d.comb += [
            port.araddr.eq(bus.ar.payload.addr),
            port.arlen.eq(bus.ar.payload.len),
            port.arid.eq(bus.ar.payload.id),
            port.arsize.eq(self.arch.beat_bytes.bit_length() - 1),
            port.arburst.eq(0b01),
            port.arvalid.eq(bus.ar.valid),
            bus.ar.ready.eq(port.arready),
            bus.r.payload.data.eq(port.rdata),
            bus.r.payload.resp.eq(port.rresp),
            bus.r.payload.last.eq(port.rlast),
            bus.r.payload.id.eq(port.rid),
            bus.r.valid.eq(port.rvalid),
            port.rready.eq(bus.r.ready),
        ]

    def _write_ports(self, m: Module) -> None:
        """Write channels of STORE, which writes whole beats, and of ATTEND."""
        self._write_port(m, self._store.write, ~0, _Flat(self, "m_axi_gmem_"))
        if self._attend:
            write = self._attend.write
            self._write_port(m, write, write.w.payload.strobes, _Flat(self, "m_axi_attend_"))

    def _write_port(self, m: Module, bus: WriteSignature, strobes: ValueLike, port: "_Flat") -> None:
        """AXI4 write channels: flat names to a master."""
        m.d.comb += [
            port.awaddr.eq(bus.aw.payload.addr),
            port.awlen.eq(bus.aw.payload.len),
            port.awsize.eq(self.arch.beat_bytes.bit_length() - 1),
            port.awburst.eq(0b01),
            port.awvalid.eq(bus.aw.valid),
            bus.aw.ready.eq(port.awready),
            port.wdata.eq(bus.w.payload.data),
            port.wstrb.eq(strobes),
            port.wlast.eq(bus.w.payload.last),
            port.wvalid.eq(bus.w.valid),
            bus.w.ready.eq(port.wready),
            bus.b.payload.resp.eq(port.bresp),
            bus.b.valid.eq(port.bvalid),
            port.bready.eq(bus.b.ready),
        ]

    def _activity(self, m: Module, blocks: dict) -> None:
        """What every engine does, and whether anything moves at all."""
        controller, vector = self._controller, self._vector
        port = _Flat(self, "m_axi_gmem_")
        read_beats, write_beats = [port.rvalid & port.rready], [port.wvalid & port.wready]
        if self._fill:
            fill_port = _Flat(self, "m_axi_fill_")
            read_beats.append(fill_port.rvalid & fill_port.rready)
        vector_word = Cat(port.valid & port.ready for port in vector.d).any()
        stalls = {
            **{
                engine: ~(block.beats.valid & block.beats.ready)
                for engine, block in blocks.items()
                if engine in (Engine.LOAD, Engine.FILL)
            },
            Engine.VECTOR: ~vector_word,
            Engine.STORE: ~write_beats[0],
        }
        write_beat, working = write_beats[0], self._tensor.state == TensorState.BUSY
        if self._attend:
            port = _Flat(self, "m_axi_attend_")
            read_beats.append(port.rvalid & port.rready)
            write_beats.append(port.wvalid & port.wready)
            stalls[Engine.ATTEND] = ~(read_beats[-1] | write_beats[-1] | self._attend.working)
            write_beat, working = write_beat | write_beats[1], working | self._attend.working
        m.d.comb += [
            self.activity.eq(self._states(m, blocks, stalls)),
            controller.read_beat.eq(Cat(*read_beats)),
            controller.write_beat.eq(Cat(*write_beats)),
            controller.progress.eq(Cat(*read_beats).any() | write_beat | working | vector_word),
        ]

    def _states(self, m: Module, blocks: dict, stalls: dict[Engine, Value]) -> Value:
        """The bits of `activity`; `stalls` has all engines but TENSOR."""
        states, issues, ends = [], [], []
        for engine, block in blocks.items():
            control, waiting = block.control, self._controller.waiting[engine].any()
            state = Signal(4, name=f"{engine.name.lower()}_state")
            if engine in stalls:
                busy = Mux(stalls[engine], _STALLED, _BUSY)
                m.d.comb += state.eq(Mux(control.busy, busy, Mux(waiting, _WAITING, _IDLE)))
            else:
                m.d.comb += state.eq(self._tensor.state)
            states.append(state)
            issues.append(control.command.valid & control.command.ready)
            ends.append(control.done)
        bits = [*states[:4], *issues[:4], *ends[:4]]
        if self._fill:
            bits += [states[4], issues[4], ends[4]]
        if self._attend:
            free = _ATTEND_PLACE - len(Cat(*bits))
            bits += [C(0, free), states[-1], issues[-1], ends[-1]]
        return Cat(*bits)


class _Flat:
    """Ports of a component that share a prefix, by the rest of their name."""

    def __init__(self, component: wiring.Component, prefix: str) -> None:
        self._component, self._prefix = component, prefix

    def __getattr__(self, name: str) -> Signal:
        return getattr(self._component, self._prefix + name)

    def __getitem__(self, name: str) -> Signal:
        return getattr(self, name)
