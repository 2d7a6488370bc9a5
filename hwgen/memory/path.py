"""The way of rounded words that do not go to external memory as they are: transposed, reduced to N:M, or both."""

from amaranth.hdl import Module, Mux
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch import Arch
from hwgen.lib.streams import Queue
from hwgen.memory.transpose import Transposer
from hwgen.reducer.reducer import Beat, Reducer

OUTPUT_BEATS = 128
"""Beats that wait for those before them in program order: the packed copy, 2:8, of a tile of 16 x 32 words of a weight
gradient, less than the FP32 words of another take to leave."""


class Reduction(data.StructLayout):
    """Whether beats are reduced (`packed`), and to what."""

    def __init__(self) -> None:
        super().__init__({"packed": 1, "n": 5, "m": 5})


class PathBeat(data.StructLayout):
    """A `Beat`, and whether its word is to be transposed."""

    def __init__(self, arch: Arch) -> None:
        super().__init__({"beat": Beat(arch), "transpose": 1})


class BeatPath(wiring.Component):
    """Transposer and reducer one behind the other, each of which beats may pass by, and a queue.

    Timing
    ------
    One beat a cycle in. Latency `Queue.LATENCY`, and that of `Transposer` and of `Reducer` for beats that go through
    them. A beat that is not transposed waits until the transposer is empty.

    Parameters
    ----------
    arch : Arch

    Members
    -------
    i : In(stream of PathBeat)
    reduction : In(Reduction)   May change while not `busy`.
    o : Out(stream of beat)
    busy : Out(1)       Something is on its way to the queue.
    clear : In(1)       Forget everything.
    """

    def __init__(self, arch: Arch) -> None:
        self._arch = arch
        super().__init__(
            {
                "i": In(stream.Signature(PathBeat(arch))),
                "reduction": In(Reduction()),
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
        m.submodules.output = output = Queue(shape=self._arch.memory.data_bits, depth=OUTPUT_BEATS)
        wiring.connect(m, output.o, wiring.flipped(self.o))
        turn, packed = self.i.payload.transpose, self.reduction.packed
        middle = stream.Signature(Beat(self._arch)).create()
        m.d.comb += [
            transposer.i.payload.eq(self.i.payload.beat),
            transposer.i.valid.eq(self.i.valid & turn),
            self.i.ready.eq(Mux(turn, transposer.i.ready, middle.ready & ~transposer.busy)),
            transposer.o.ready.eq(middle.ready),
            middle.payload.eq(Mux(transposer.o.valid, transposer.o.payload, self.i.payload.beat)),
            middle.valid.eq(transposer.o.valid | (self.i.valid & ~turn & ~transposer.busy)),
            middle.ready.eq(Mux(packed, reducer.i.ready, output.i.ready)),
            reducer.i.payload.eq(middle.payload),
            reducer.i.valid.eq(middle.valid & packed),
            reducer.n.eq(self.reduction.n),
            reducer.m.eq(self.reduction.m),
            reducer.o.ready.eq(output.i.ready & packed),
            output.i.payload.eq(Mux(packed, reducer.o.payload, middle.payload.data)),
            output.i.valid.eq(Mux(packed, reducer.o.valid, middle.valid)),
            self.busy.eq(transposer.busy | reducer.busy),
        ]
        m.d.comb += [part.clear.eq(self.clear) for part in (transposer, reducer, output)]
        return m
