"""The side of the values: fetch, row buffer and weighted sums, and the stage that feeds them."""

from amaranth.hdl import Module, Mux
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch.attention import AttentionSizes
from hwgen.attention.buffer import BufferLoad, RowBuffer
from hwgen.attention.fetch import RowFetch
from hwgen.attention.key_side import LOADS
from hwgen.attention.values import ValueStage
from hwgen.attention.weighted import WeightedSum, WeightedSums
from hwgen.attention.words import FetchCommand, ReadRequest
from hwgen.lib.streams import Queue

_SHARED = (
    *("refined", "fetch_slot", "fetch_place", "slot", "place", "e_address", "e_bits", "growth", "begins", "may_begin"),
    "leaves",
)
"""Ports of `ValueStage` that are those of the side."""
_ROWS = ("certain", "rows")
"""The same, of streams that are always taken."""


class ValueSide(wiring.Component):
    """Values and weights to sums.

    Timing
    ------
    That of `RowFetch`, `RowBuffer`, `ValueStage`, `WeightedSum`.

    Parameters
    ----------
    sizes : AttentionSizes

    Members
    -------
    job : In(JobFields)
    load_fetch : In(stream of FetchCommand), load : In(stream of BufferLoad)    Values that are held.
    loaded : Out(1)        The last word of a plane is written.
    request : Out(stream of ReadRequest), data : In(stream of beat)
    o : Out(stream of WeightedSums)
    certain, rows, refined, fetch_slot, fetch_place, slot, place, e_address, e_bits, kept, marked, growth, begins,
        may_begin, leaves : as for `ValueStage`.
    """

    def __init__(self, sizes: AttentionSizes) -> None:
        self._sizes = sizes
        self._stage = ValueStage(sizes)
        stage = self._stage.signature.members
        super().__init__(
            {name: stage[name] for name in ("job", "kept", "marked", *_ROWS, *_SHARED)}
            | {
                "load_fetch": In(stream.Signature(FetchCommand())),
                "load": In(stream.Signature(BufferLoad(sizes))),
                "loaded": Out(1),
                "request": Out(stream.Signature(ReadRequest())),
                "data": In(stream.Signature(8 * sizes.beat_bytes)),
                "o": Out(stream.Signature(WeightedSums(sizes))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Fetch | buffer, or past it | sums."""
        m = Module()
        m.submodules.stage = stage = self._stage
        m.submodules.fetch = fetch = RowFetch(self._sizes)
        m.submodules.rows_held = rows = RowBuffer(self._sizes)
        m.submodules.loads = loads = Queue(shape=BufferLoad(self._sizes), depth=LOADS)
        m.submodules.sums = sums = WeightedSum(self._sizes)
        for name in _SHARED:
            own, inner = getattr(self, name), getattr(stage, name)
            m.d.comb += inner.eq(own) if self.signature.members[name].flow is In else own.eq(inner)
        for name in _ROWS:
            own, inner = getattr(self, name), getattr(stage, name)
            m.d.comb += [inner.payload.eq(own.payload), inner.valid.eq(own.valid)]
        m.d.comb += [stage.job.eq(self.job), rows.bypass.eq(~self.job.hold), self.loaded.eq(rows.loaded)]
        for source, target in (
            (wiring.flipped(self.kept), stage.kept),
            (wiring.flipped(self.marked), stage.marked),
            (wiring.flipped(self.load), loads.i),
            (loads.o, rows.load),
            (fetch.request, wiring.flipped(self.request)),
            (wiring.flipped(self.data), fetch.data),
            (fetch.o, rows.i),
            (stage.held, rows.read),
            (rows.o, sums.i),
            (stage.command, sums.command),
            (stage.weights, sums.weights),
            (sums.o, wiring.flipped(self.o)),
        ):
            wiring.connect(m, source, target)
        self._fetches(m, stage, fetch, rows)
        return m

    def _fetches(self, m: Module, stage: ValueStage, fetch: RowFetch, rows: RowBuffer) -> None:
        """Held values are loaded by the head, others fetched row by row; kept keys go to whoever has their values."""
        hold, command, indices = self.job.hold, fetch.command, stage.indices
        m.d.comb += [
            command.payload.eq(Mux(hold, self.load_fetch.payload, stage.fetch.payload)),
            command.valid.eq(Mux(hold, self.load_fetch.valid, stage.fetch.valid)),
            self.load_fetch.ready.eq(command.ready & hold),
            stage.fetch.ready.eq(command.ready & ~hold),
            indices.ready.eq(Mux(hold, rows.indices.ready, fetch.indices.ready)),
        ]
        for target, wanted in ((fetch.indices, ~hold), (rows.indices, hold)):
            m.d.comb += [target.payload.eq(indices.payload), target.valid.eq(indices.valid & wanted)]
