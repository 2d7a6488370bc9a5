"""SAVE and RESTORE: importance of tokens to memory and back, and which heads are alive."""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch.attention import AttentionSizes
from hwgen.arch.services import IMPORTANCE_BYTES, Job, Score
from hwgen.attention.importance import IMPORTANCE_BITS, token_ports
from hwgen.attention.services.feed import part_of
from hwgen.attention.services.lists import BeatPacker, Compactor
from hwgen.attention.services.words import ServiceFields, job_ports, rank_width
from hwgen.attention.words import INDEX_BITS


class StateJob(wiring.Component):
    """Words of `rank_width` tokens, from importance into beats or from beats into importance.

    Timing
    ------
    A word a cycle while beats are taken, or come; behind RESTORE of tokens a cycle for each word of importance that
    becomes 0.

    Parameters
    ----------
    sizes : AttentionSizes

    Members
    -------
    restores : In(1)                      The job is RESTORE; else SAVE.
    save, restore : In(ServiceFields), start : In(1)
    token_address, token_data, token_write_address, token_write_data, token_write_enable    Importance of tokens.
    survivors : Out(max_heads), survive : Out(1)    Heads that are alive from now on, for a cycle.
    span : Out(stream of BeatSpan), data : In(stream of ReadBeat)
    span_0 : Out(stream of BeatSpan), o_0 : Out(stream of StoreBeat)
    busy : Out(1)
    """

    def __init__(self, sizes: AttentionSizes) -> None:
        self._sizes, self._beat, self._width = sizes, sizes.beat_bytes, rank_width(sizes)
        super().__init__(
            {
                "restores": In(1),
                "save": In(ServiceFields(Job.SAVE)),
                "restore": In(ServiceFields(Job.RESTORE)),
                "start": In(1),
                **token_ports(sizes),
                "survivors": Out(sizes.max_heads),
                "survive": Out(1),
                **job_ports(sizes, channels=1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Words are counted; a packer makes beats of them, a compactor importance."""
        m = Module()
        width, words = self._width, range(-(-self._sizes.max_length // self._width))
        m.submodules.packer = packer = BeatPacker(item_bytes=IMPORTANCE_BYTES, width=width, beat_bytes=self._beat)
        m.submodules.compactor = compactor = Compactor(self._sizes)
        wiring.connect(m, packer.o, wiring.flipped(self.o_0))
        # `asked` is a word ahead: importance comes a cycle after its address.
        word, asked, left, there, takes = Signal(words), Signal(words), Signal(INDEX_BITS), Signal(), Signal()
        by_head = self.restores & (self.restore.score == Score.HEADS)
        length = Mux(self.restores, self.restore.length, self.save.length)
        m.d.comb += [
            takes.eq((left != 0) & Mux(self.restores, self.data.valid, there & packer.i.ready)),
            asked.eq(Mux(takes, word + 1, word)),
            self.token_address.eq(asked // (self._sizes.softmax_lanes // width)),
            packer.i.valid.eq((left != 0) & there & ~self.restores),
            compactor.i_valid.eq(takes & self.restores & ~by_head),
            self.survive.eq(takes & by_head),
        ]
        m.d.sync += there.eq(left != 0)
        with m.If(takes):
            m.d.sync += [word.eq(word + 1), left.eq(Mux(left > width, left - width, 0))]
        with m.If(self.start):
            m.d.sync += [word.eq(0), there.eq(0), left.eq(Mux(by_head, 1, length))]
        self._words(m, word, left, packer, compactor)
        offers = self._spans(m, by_head, length)
        m.d.comb += self.busy.eq(offers | (left != 0) | packer.busy | compactor.busy)
        return m

    def _words(self, m: Module, word: Value, left: Value, packer: BeatPacker, compactor: Compactor) -> None:
        """What a word holds, on either way, and when a beat has been used up."""
        width, parts = self._width, self._beat // (IMPORTANCE_BYTES * self._width)
        last, beat = left <= width, self.data.payload.data
        m.d.comb += self.data.ready.eq((left != 0) & self.restores & (last | (word % parts == parts - 1)))
        for target, source in ((packer.i.payload, self.token_data), (compactor.i, beat)):
            m.d.comb += [
                target.count.eq(Mux(last, left, width)),
                target.last.eq(last),
                Value.cast(target.items).eq(part_of(m, source, word, IMPORTANCE_BITS * width)),
            ]
        heads = range(self._sizes.max_heads)
        m.d.comb += [
            *(self.survivors[head].eq(beat[head] & (self.restore.length > head)) for head in heads),
            self.token_write_address.eq(compactor.address),
            self.token_write_data.eq(compactor.data),
            self.token_write_enable.eq(compactor.write),
        ]

    def _spans(self, m: Module, by_head: Value, length: Value) -> Value:
        """What is read or written is announced once; gives whether it is yet to be."""
        shift, offers = self._beat.bit_length() - 1, Signal()
        beats = (length * IMPORTANCE_BYTES + self._beat - 1) >> shift
        read, write = self.span.payload, self.span_0.payload
        m.d.comb += [
            *(read.address.eq(self.restore.src_addr), read.beats.eq(Mux(by_head, 1, beats))),
            *(write.address.eq(self.save.dst_addr), write.beats.eq(beats)),
            *(self.span.valid.eq(offers & self.restores), self.span_0.valid.eq(offers & ~self.restores)),
        ]
        with m.If(self.start):
            m.d.sync += offers.eq(1)
        with m.Elif(Mux(self.restores, self.span.ready, self.span_0.ready)):
            m.d.sync += offers.eq(0)
        return offers
