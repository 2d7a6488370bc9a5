"""The way of rounded words to external memory: straight, transposed, reduced to N:M, or both."""

from amaranth.hdl import Module, Mux
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch import Arch
from hwgen.memory.transpose import Transposer
from hwgen.reducer.reducer import Beat, Reducer


class Path(data.StructLayout):
    """Whether beats go through the transposer, whether they are reduced (`packed`), and to what."""

    def __init__(self) -> None:
        super().__init__({"transpose": 1, "packed": 1, "n": 5, "m": 5})


class BeatPath(wiring.Component):
    """Transposer and reducer one behind the other, each of which beats may pass by.

    Timing
    ------
    One beat a cycle in. Combinational when beats pass by both, else the latency of `Transposer` and of `Reducer`.

    Parameters
    ----------
    arch : Arch

    Members
    -------
    i : In(stream of Beat)
    path : In(Path)     May change while not `busy`.
    o : Out(stream of beat)
    busy : Out(1)       Something is inside.
    clear : In(1)       Forget it.
    """

    def __init__(self, arch: Arch) -> None:
        self._arch = arch
        super().__init__(
            {
                "i": In(stream.Signature(Beat(arch))),
                "path": In(Path()),
                "o": Out(stream.Signature(arch.memory.data_bits)),
                "busy": Out(1),
                "clear": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Two branches around two blocks."""
        m = Module()
        m.submodules.transposer = transposer = Transposer(shape=Beat(self._arch), cols=self._arch.array.cols)
        m.submodules.reducer = reducer = Reducer(self._arch)
        turn, packed, middle = self.path.transpose, self.path.packed, stream.Signature(Beat(self._arch)).create()
        m.d.comb += [
            transposer.i.payload.eq(self.i.payload),
            transposer.i.valid.eq(self.i.valid & turn),
            self.i.ready.eq(Mux(turn, transposer.i.ready, middle.ready)),
            transposer.o.ready.eq(middle.ready & turn),
            middle.payload.eq(Mux(turn, transposer.o.payload, self.i.payload)),
            middle.valid.eq(Mux(turn, transposer.o.valid, self.i.valid)),
            reducer.i.payload.eq(middle.payload),
            reducer.i.valid.eq(middle.valid & packed),
            reducer.n.eq(self.path.n),
            reducer.m.eq(self.path.m),
            middle.ready.eq(Mux(packed, reducer.i.ready, self.o.ready)),
            reducer.o.ready.eq(self.o.ready & packed),
            self.o.payload.eq(Mux(packed, reducer.o.payload, middle.payload.data)),
            self.o.valid.eq(Mux(packed, reducer.o.valid, middle.valid)),
            self.busy.eq(transposer.busy | reducer.busy),
            transposer.clear.eq(self.clear),
            reducer.clear.eq(self.clear),
        ]
        return m
