"""What each bench runs on: the component whose Verilog it gets, and the architecture."""

import os
from collections.abc import Callable

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch import Arch, load
from hwgen.array.engine import TensorEngine
from hwgen.control.control import Controller
from hwgen.emit import emit_verilog
from hwgen.lib.shapes import AccRead, AccWrite, EngineSignature, LoadBeat
from hwgen.memory.load import LoadEngine
from hwgen.memory.store import StoreEngine
from hwgen.vector.engine import VectorEngine
from sim.design import TOP, verilog

ARCH_VARIABLE = "SPARSELOOM_BENCH_ARCH"
"""Environment variable that tells the simulator's process which architecture it runs."""


class TensorPorts(wiring.Component):
    """The tensor engine without its account of idle cycles; its state is a plain number."""

    def __init__(self, arch: Arch) -> None:
        self._arch = arch
        super().__init__(
            {
                "control": Out(EngineSignature()),
                "beats": In(stream.Signature(LoadBeat(arch))),
                "acc_read": Out(AccRead(arch)),
                "acc_write": Out(AccWrite(arch)),
                "state": Out(4),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.engine = engine = TensorEngine(arch=self._arch)
        for name in ("control", "beats", "acc_read", "acc_write"):
            wiring.connect(m, getattr(engine, name), wiring.flipped(getattr(self, name)))
        m.d.comb += self.state.eq(engine.state)
        return m


COMPONENTS: dict[str, tuple[str, Callable[[Arch], wiring.Component]]] = {
    "load": ("load_engine", LoadEngine),
    "tensor": ("tensor_engine", TensorPorts),
    "vector": ("vector_engine", VectorEngine),
    "store": ("store_engine", StoreEngine),
    "controller": ("controller", lambda arch: Controller(arch=arch)),
}
"""Bench -> name of its top module, and what that is made from."""
BENCHES = (*COMPONENTS, "top")


def design(bench: str, arch: Arch) -> tuple[str, str]:
    """Name of the top module and Verilog text of a bench."""
    if bench not in BENCHES:
        raise ValueError(f"bench must be one of {', '.join(BENCHES)}, not {bench!r}")
    if bench == "top":
        return TOP, verilog(arch)
    name, make = COMPONENTS[bench]
    return name, emit_verilog(make(arch), name)


def bench_arch() -> Arch:
    """The architecture of the design under test, inside the simulator's process."""
    return load(os.environ[ARCH_VARIABLE])
