"""What the top-k engine ranks: importance of tokens or heads, or FP32 values out of memory."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch.attention import AttentionSizes
from hwgen.arch.services import Job, Key, Score
from hwgen.attention.importance import IMPORTANCE_BITS
from hwgen.attention.rows import row_words
from hwgen.attention.services.table import beat_table
from hwgen.attention.services.words import ServiceFields, rank_width
from hwgen.attention.words import INDEX_BITS
from hwgen.lib.pipeline import select_part
from hwgen.pruning.keys import KEY_BITS, fp32_key


class RankWord(data.StructLayout):
    """Elements as they are, and as unsigned keys to rank them by."""

    def __init__(self, sizes: AttentionSizes) -> None:
        keys = data.ArrayLayout(KEY_BITS, rank_width(sizes))
        super().__init__({"values": keys, "keys": keys})


class RankFeed(wiring.Component):
    """Words of `rank_width` elements, from element 0 on.

    Tokens: importance, all ones for protected ones. Heads: importance and 1, 0 for those that are not alive. Values: as
    `fp32_key` ranks them, or their magnitudes.

    Timing
    ------
    A word a cycle from 3 cycles after `start` on, or as values come. It doesn't wait for who takes them.

    Parameters
    ----------
    sizes : AttentionSizes

    Members
    -------
    values : In(1)                  Of TOPK; else of SELECT.
    select, topk : In(ServiceFields)
    alive : In(max_heads), heads : In(32 x max_heads)
    token_address : Out, token_data : In(32 x softmax_lanes)    A cycle later.
    mask : In(beat), mask_valid : In(1)     Beats of the bits of protected tokens, before `start`.
    clear : In(1)                           The next beat is the first one.
    start : In(1)
    data : In(stream of beat)               Values.
    o : Out(RankWord), o_valid : Out(1)
    """

    def __init__(self, sizes: AttentionSizes) -> None:
        self._sizes, self._width = sizes, rank_width(sizes)
        super().__init__(
            {
                "values": In(1),
                "select": In(ServiceFields(Job.SELECT)),
                "topk": In(ServiceFields(Job.TOPK)),
                "alive": In(sizes.max_heads),
                "heads": In(IMPORTANCE_BITS * sizes.max_heads),
                "token_address": Out(range(row_words(sizes))),
                "token_data": In(IMPORTANCE_BITS * sizes.softmax_lanes),
                "mask": In(8 * sizes.beat_bytes),
                "mask_valid": In(1),
                "clear": In(1),
                "start": In(1),
                "data": In(stream.Signature(8 * sizes.beat_bytes)),
                "o": Out(RankWord(sizes)),
                "o_valid": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Address | elements and their keys | register."""
        m = Module()
        width = self._width
        words = range(-(-self._sizes.max_length // width))
        # `asked` is a word ahead: importance comes a cycle after its address.
        asked, word, left = Signal(words), Signal(words), Signal(INDEX_BITS)
        there, takes = Signal(), Signal()
        m.d.comb += [
            self.token_address.eq(asked // (self._sizes.softmax_lanes // width)),
            takes.eq((left != 0) & Mux(self.values, self.data.valid, there)),
            asked.eq(Mux(takes, word + 1, word)),
        ]
        m.d.sync += there.eq(left != 0)
        with m.If(self.start):
            m.d.sync += [word.eq(0), there.eq(0), left.eq(Mux(self.values, self.topk.length, self.select.length))]
        with m.If(takes):
            m.d.sync += [word.eq(word + 1), left.eq(Mux(left > width, left - width, 0))]
        parts = self._sizes.beat_bytes // 4 // width
        m.d.comb += self.data.ready.eq(self.values & takes & ((word % parts == parts - 1) | (left <= width)))
        m.d.sync += self.o_valid.eq(takes)
        self._elements(m, word)
        return m

    def _elements(self, m: Module, word: Value) -> None:
        """Elements of a word and their keys, into the register."""
        width, sizes, bits = self._width, self._sizes, self._width * KEY_BITS
        by_head = self.select.score == Score.HEADS
        head_words = -(-sizes.max_heads // width)
        heads, alive = Signal(head_words * bits), Signal(head_words * width)
        m.d.comb += [heads.eq(self.heads), alive.eq(self.alive)]
        own_heads, own_alive = part_of(m, heads, word, bits), part_of(m, alive, word, width)
        tokens = part_of(m, self.token_data, word, bits)
        values = part_of(m, self.data.payload, word, bits)
        protected = self._protected(m, word)
        for lane in range(width):
            token, head, value = (part.word_select(lane, KEY_BITS) for part in (tokens, own_heads, values))
            magnitude = Cat(value[:-1], value[-1] & (self.topk.key != Key.MAGNITUDE))
            head_key = Mux(own_alive[lane], head + 1, 0)
            token_key = token | protected[lane].replicate(KEY_BITS)
            m.d.sync += [
                self.o.values[lane].eq(Mux(self.values, value, Mux(by_head, head, token))),
                self.o.keys[lane].eq(Mux(self.values, fp32_key(magnitude), Mux(by_head, head_key, token_key))),
            ]

    def _protected(self, m: Module, word: Value) -> list[Value]:
        """Which tokens of a word survive before all others."""
        bits, width = 8 * self._sizes.beat_bytes, self._width
        beats = -(-self._sizes.max_length // bits)
        read = beat_table(m, "masks", beats=beats, clear=self.clear, beat=self.mask, valid=self.mask_valid)
        m.d.comb += read.addr.eq(word // (bits // width))
        own, lane_bits = part_of(m, read.data, word, width), (width - 1).bit_length()
        indices = [Cat(Const(lane, lane_bits), word) for lane in range(width)]
        return [(index < self.select.first) | (self.select.protected & own[lane]) for lane, index in enumerate(indices)]


def part_of(m: Module, whole: Value, word: Value, width: int) -> Value:
    """The part of `whole` that word number `word` is, counted from the first part again behind the last."""
    parts = min(len(whole) // width, 1 << len(word))
    return whole if parts == 1 else select_part(m, whole[: parts * width], word[: (parts - 1).bit_length()], width)
