"""SELECT and TOPK: the top-k engine between what it ranks and the lists that come of it."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch.attention import AttentionSizes
from hwgen.arch.services import INDEX_BYTES, Job, Score
from hwgen.attention.importance import IMPORTANCE_BITS, token_ports
from hwgen.attention.services.feed import RankFeed
from hwgen.attention.services.kept import KeptStage, rank_sizes
from hwgen.attention.services.lists import BeatPacker, Compactor
from hwgen.attention.services.words import BEATS_BITS, ServiceFields, job_ports, rank_width
from hwgen.attention.words import INDEX_BITS
from hwgen.pruning.count import tree_sum
from hwgen.pruning.topk import TopKMask

VALUE_BYTES = 4


class RankJob(wiring.Component):
    """Ranks the elements of a vector and writes which of them are kept.

    Timing
    ------
    A word of `rank_width` elements a cycle into the engine, its search by the law in `hwgen/pruning/cycles.py`, a word
    a cycle out of it.

    Parameters
    ----------
    sizes : AttentionSizes

    Members
    -------
    values : In(1)                        The job is TOPK; else SELECT.
    select, topk : In(ServiceFields), start : In(1)
    alive : In(max_heads), heads : In(32 x max_heads)
    survivors : Out(max_heads), survive : Out(1)    Heads that are alive from now on, for a cycle.
    token_address, token_data, token_write_address, token_write_data, token_write_enable    Importance of tokens.
    span : Out(stream of BeatSpan), data : In(stream of ReadBeat)
    span_N : Out(stream of BeatSpan), o_N : Out(stream of StoreBeat)    Indices (0), values (1).
    busy : Out(1)
    """

    def __init__(self, sizes: AttentionSizes) -> None:
        self._sizes, self._beat, self._width = sizes, sizes.beat_bytes, rank_width(sizes)
        super().__init__(
            {
                "values": In(1),
                "select": In(ServiceFields(Job.SELECT)),
                "topk": In(ServiceFields(Job.TOPK)),
                "start": In(1),
                "alive": In(sizes.max_heads),
                "heads": In(IMPORTANCE_BITS * sizes.max_heads),
                "survivors": Out(sizes.max_heads),
                "survive": Out(1),
                **token_ports(sizes),
                **job_ports(sizes, channels=2),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Feed | engine | what is kept | lists and importance."""
        m = Module()
        m.submodules.feed = feed = RankFeed(self._sizes)
        m.submodules.engine = engine = TopKMask(sizes=rank_sizes(self._sizes))
        m.submodules.kept = kept = KeptStage(self._sizes)
        wiring.connect(m, engine.o, kept.marks)
        self._length, self._keep = Signal(INDEX_BITS), Signal(INDEX_BITS)
        self._by_head = Signal()
        m.d.comb += [
            self._length.eq(Mux(self.values, self.topk.length, self.select.length)),
            self._keep.eq(Mux(self.values, self.topk.k, self.select.keep)),
            self._by_head.eq(~self.values & (self.select.score == Score.HEADS)),
            # The engine takes a word a cycle once it has its command.
            engine.scores.payload.eq(Cat(*(feed.o.keys[lane] for lane in range(self._width)))),
            engine.scores.valid.eq(feed.o_valid),
            engine.command.payload.length.eq(self._length),
            engine.command.payload.k.eq(self._keep),
            *(kept.start.eq(self.start), kept.length.eq(self._length), kept.by_head.eq(self._by_head)),
            *(kept.i.eq(feed.o), kept.i_valid.eq(feed.o_valid), kept.alive.eq(self.alive)),
            kept.dropped.eq(~self.values & self.select.dropped),
            *(self.survivors.eq(kept.survivors), self.survive.eq(kept.survive)),
        ]
        self._connect_feed(m, feed)
        last, writing = self._lists(m, kept.o)
        idle = self._sequence(m, feed, engine, last)
        m.d.comb += self.busy.eq(~idle | engine.busy | kept.busy | kept.survive | writing)
        return m

    def _connect_feed(self, m: Module, feed: RankFeed) -> None:
        """What there is to be ranked."""
        beat = self.data.payload
        m.d.comb += [
            *(feed.values.eq(self.values), feed.select.eq(self.select), feed.topk.eq(self.topk)),
            *(feed.alive.eq(self.alive), feed.heads.eq(self.heads), feed.clear.eq(self.start)),
            *(self.token_address.eq(feed.token_address), feed.token_data.eq(self.token_data)),
            *(feed.mask.eq(beat.data), feed.mask_valid.eq(self.data.valid & beat.table)),
            *(feed.data.payload.eq(beat.data), feed.data.valid.eq(self.data.valid & ~beat.table)),
            self.data.ready.eq(beat.table | feed.data.ready),
        ]

    def _sequence(self, m: Module, feed: RankFeed, engine: TopKMask, last: Value) -> Value:
        """Reads and lists are announced, then the engine runs once. Gives whether nothing is to be done."""
        idle, protected = Signal(), ~self.values & self.select.protected
        masks = self._spans(m, protected)
        with m.FSM():
            with m.State("idle"):
                m.d.comb += idle.eq(1)
                with m.If(self.start):
                    m.next = "read"
            self._announce(m, self.values | protected, masks)
            with m.State("command"):
                m.d.comb += [engine.command.valid.eq(1), feed.start.eq(engine.command.ready)]
                with m.If(engine.command.ready):
                    m.next = "run"
            with m.State("run"), m.If(last):
                m.next = "idle"
        return idle

    def _announce(self, m: Module, reads: Value, masks: Value) -> None:
        """States from "read" to "command": spans one after the other, then bits of protected tokens come."""
        with m.State("read"):
            m.d.comb += self.span.valid.eq(reads)
            with m.If(self.span.ready | ~reads):
                m.next = "indices"
        with m.State("indices"):
            m.d.comb += self.span_0.valid.eq(1)
            with m.If(self.span_0.ready):
                m.next = "values"
        with m.State("values"):
            m.d.comb += self.span_1.valid.eq(self.values)
            with m.If(self.span_1.ready | ~self.values):
                m.next = "masks"
        with m.State("masks"), m.If(masks == 0):
            m.next = "command"

    def _spans(self, m: Module, protected: Value) -> Value:
        """Values or bits of protected tokens; lists. Gives how many beats of bits are to come.

        `listed` is asked for two cycles after `start` at the earliest.
        """
        shift = self._beat.bit_length() - 1
        listed, candidates, kept = Signal(INDEX_BITS), Signal(INDEX_BITS), Signal(INDEX_BITS)
        there = [self.alive[head] & (self._length > head) for head in range(self._sizes.max_heads)]
        m.d.comb += [
            candidates.eq(tree_sum(there)),
            kept.eq(Mux(self._by_head & (candidates < self._keep), candidates, self._keep)),
        ]
        m.d.sync += listed.eq(Mux(~self.values & self.select.dropped, self._length - kept, kept))
        read, indices, values = self.span.payload, self.span_0.payload, self.span_1.payload
        m.d.comb += [
            read.address.eq(Mux(self.values, self.topk.src_addr, self.select.protect_addr)),
            read.table.eq(protected),
            indices.address.eq(Mux(self.values, self.topk.index_addr, self.select.index_addr)),
            indices.beats.eq((listed * INDEX_BYTES + self._beat - 1) >> shift),
            values.address.eq(self.topk.value_addr),
            values.beats.eq((listed * VALUE_BYTES + self._beat - 1) >> shift),
        ]
        with m.If(self.values):
            m.d.comb += read.beats.eq((self._length * VALUE_BYTES + self._beat - 1) >> shift)
        with m.Else():
            m.d.comb += read.beats.eq((self._length + 8 * self._beat - 1) >> shift + 3)
        masks = Signal(BEATS_BITS)
        with m.If(protected & self.span.valid & self.span.ready):
            m.d.sync += masks.eq(read.beats)
        with m.Elif(self.data.valid & self.data.payload.table):
            m.d.sync += masks.eq(masks - 1)
        return masks

    def _lists(self, m: Module, source: stream.Interface) -> tuple[Value, Value]:
        """Dense words go to the lists and to importance. Gives whether the last one leaves, and whether any is left."""
        indices = BeatPacker(item_bytes=INDEX_BYTES, width=self._width, beat_bytes=self._beat)
        values = BeatPacker(item_bytes=VALUE_BYTES, width=self._width, beat_bytes=self._beat)
        compactor = Compactor(self._sizes)
        m.submodules.indices, m.submodules.value_list, m.submodules.compactor = indices, values, compactor
        wiring.connect(m, indices.o, wiring.flipped(self.o_0))
        wiring.connect(m, values.o, wiring.flipped(self.o_1))
        word, taken = source.payload, Signal()
        m.d.comb += [
            source.ready.eq(indices.i.ready & (values.i.ready | ~self.values)),
            taken.eq(source.valid & source.ready),
            indices.i.valid.eq(taken),
            values.i.valid.eq(taken & self.values),
            compactor.i_valid.eq(taken & ~self.values & self.select.compact),
        ]
        for target, name in ((indices.i.payload, "index"), (values.i.payload, "value"), (compactor.i, "value")):
            m.d.comb += [target.count.eq(word.count), target.last.eq(word.last)]
            m.d.comb += [target.items[lane].eq(word.items[lane][name]) for lane in range(self._width)]
        m.d.comb += [
            self.token_write_address.eq(compactor.address),
            self.token_write_data.eq(compactor.data),
            self.token_write_enable.eq(compactor.write),
        ]
        return taken & word.last, indices.busy | values.busy | compactor.busy
