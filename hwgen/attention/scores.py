"""Score buffers: rows between their first product and their last softmax."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch.attention import CHUNK, SCORE_BITS, AttentionSizes
from hwgen.attention.words import INDEX_BITS, ScoreWord
from hwgen.lib.pipeline import delay, select_part
from hwgen.lib.ram import Ram

ENTRY_BITS = SCORE_BITS + 1
"""A score and whether its key is seen."""


class StoredScores(data.StructLayout):
    """Scores side by side, and which of them are seen."""

    def __init__(self, count: int) -> None:
        super().__init__({"scores": data.ArrayLayout(signed(SCORE_BITS), count), "seen": count})


class ScoreBuffers(wiring.Component):
    """`rows_in_flight` memories of `max_length` scores, `softmax_lanes` in a word.

    Products write up to R = `multipliers` / 16 scores a cycle and read as many of another pass; the softmax reads whole
    words. A buffer is read by one of them in a cycle.

    Timing
    ------
    What is asked for comes a cycle later. A score is read from the cycle after the one in which it is written on.

    Parameters
    ----------
    sizes : AttentionSizes

    Members
    -------
    write : In(ScoreWord), write_buffer : In, write_valid : In(1)    `index` is a multiple of R.
    old_index : In(16), old_buffer : In, old_valid : In(1)   R scores from a multiple of R on.
    old : Out(StoredScores(R))
    address : In, buffer : In    A word of `softmax_lanes` scores, unless `old_valid` asks the same buffer.
    o : Out(StoredScores(lanes))
    """

    LATENCY = 1

    def __init__(self, sizes: AttentionSizes) -> None:
        self._lanes, self._rows = sizes.softmax_lanes, sizes.multipliers // CHUNK
        self._buffers, self._depth = sizes.rows_in_flight, max(2, sizes.max_length // self._lanes)
        number = (self._buffers - 1).bit_length()
        super().__init__(
            {
                "write": In(ScoreWord(sizes)),
                "write_buffer": In(number),
                "write_valid": In(1),
                "old_index": In(INDEX_BITS),
                "old_buffer": In(number),
                "old_valid": In(1),
                "old": Out(StoredScores(self._rows)),
                "address": In((self._depth - 1).bit_length()),
                "buffer": In(number),
                "o": Out(StoredScores(self._lanes)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """The same data to every part of a word; enables say which part it is."""
        m = Module()
        write, parts = self.write, self._lanes // self._rows
        entries = [Cat(write.scores[row], write.seen[row]) for row in range(self._rows)]
        enables = Signal(self._lanes)
        part = Signal(range(max(2, parts)))
        m.d.comb += part.eq((write.index // self._rows) % parts)
        for place in range(parts):
            with m.If(part == place):
                m.d.comb += enables.word_select(place, self._rows).eq(write.write)
        words = []
        for number in range(self._buffers):
            m.submodules[f"buffer_{number}"] = ram = Ram(
                width=ENTRY_BITS * self._lanes, depth=self._depth, parts=self._lanes
            )
            written = self.write_valid & (self.write_buffer == number)
            old = self.old_valid & (self.old_buffer == number)
            m.d.comb += [
                ram.write_enable.eq(Mux(written, enables, 0)),
                ram.write_address.eq(write.index // self._lanes),
                ram.write_data.eq(Cat(*entries * parts)),
                ram.read_address.eq(Mux(old, self.old_index // self._lanes, self.address)),
            ]
            words.append(ram.read_data)
        self._outputs(m, Cat(*words), parts)
        return m

    def _outputs(self, m: Module, words: Cat, parts: int) -> None:
        """Of all that the buffers give, the word of one and a part of another."""
        width = ENTRY_BITS * self._lanes
        word = select_part(m, words, delay(m, self.buffer, self.LATENCY, "buffer"), width)
        older = select_part(m, words, delay(m, self.old_buffer, self.LATENCY, "old_buffer"), width)
        part = Signal(range(max(2, parts)))
        m.d.comb += part.eq((delay(m, self.old_index, self.LATENCY, "old_index") // self._rows) % parts)
        rows = select_part(m, older, part, ENTRY_BITS * self._rows)
        for target, source, count in ((self.o, word, self._lanes), (self.old, rows, self._rows)):
            for place in range(count):
                entry = source.word_select(place, ENTRY_BITS)
                m.d.comb += [
                    target.scores[place].eq(entry[:SCORE_BITS].as_signed()),
                    target.seen[place].eq(entry[SCORE_BITS]),
                ]
