"""Importance of tokens: probabilities of row after row, added up key by key."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, SignatureMembers

from hwgen.arch.attention import (
    EXP_BITS,
    FORGET_FRACTION,
    PROBABILITY_FRACTION,
    RECIPROCAL_BITS,
    SCORE_MAX,
    AttentionSizes,
)
from hwgen.attention.rows import row_words
from hwgen.attention.words import FLOOR_BITS, LaneExponentials
from hwgen.lib.pipeline import delay
from hwgen.lib.ram import Ram
from hwgen.lib.shared import Shared

IMPORTANCE_BITS = SCORE_MAX.bit_length()
PROBABILITY_BITS = PROBABILITY_FRACTION + 1


def token_ports(sizes: AttentionSizes) -> SignatureMembers:
    """Ports of who reads and writes importance of tokens, a word of `softmax_lanes` each.

    Data come a cycle after their address.
    """
    word, bits = range(row_words(sizes)), IMPORTANCE_BITS * sizes.softmax_lanes
    return SignatureMembers(
        {
            "token_address": Out(word),
            "token_data": In(bits),
            "token_write_address": Out(word),
            "token_write_data": Out(bits),
            "token_write_enable": Out(1),
        }
    )


class ProbabilityLane(wiring.Component):
    """p = e x r, shifted right by n + RECIPROCAL_BITS - PROBABILITY_FRACTION places, to nearest, ties up.

    Timing
    ------
    `LATENCY` cycles, one value a cycle. No stall, no valid. `n` comes `N_AFTER` cycles behind `e` and `r`.

    Members
    -------
    e : In(16), r : In(21), n : In(5)
    o : Out(17)
    """

    N_AFTER = 2
    LATENCY = 3

    e: In(EXP_BITS)
    r: In(RECIPROCAL_BITS + 1)
    n: In(FLOOR_BITS)
    o: Out(PROBABILITY_BITS)

    def elaborate(self, platform: object) -> Module:
        """Multiply, twice | shift and round."""
        m = Module()
        product = delay(m, (self.e * self.r)[: EXP_BITS + RECIPROCAL_BITS + 1], self.N_AFTER, "product")
        # A place less than wanted, then one more with the rounding.
        shifted = product >> (RECIPROCAL_BITS - PROBABILITY_FRACTION - 1) >> self.n
        result = Signal(PROBABILITY_BITS, reset_less=True)
        m.d.sync += result.eq((shifted + 1) >> 1)
        m.d.comb += self.o.eq(result)
        return m


class Importance(wiring.Component):
    """Adds the probabilities of a word of keys to their importance, or scales it; saturates at SCORE_MAX.

    Words of one address may follow one another at any distance, but for those with `decay`: importance of their address
    must have been added `DECAY_DISTANCE` cycles before at the latest.

    Timing
    ------
    A word a cycle, no stall. What a word adds is read `LATENCY` cycles after it came.

    Parameters
    ----------
    sizes : AttentionSizes

    Members
    -------
    i : In(LaneExponentials), i_valid : In(1)    `last` means nothing.
    address : In     Word of `max_length` / `softmax_lanes` words.
    r : In(21), n : In(5)    Reciprocal of the row's sum.
    decay : In(lanes), forget : In(9)    The importance of these lanes is first multiplied by forget / 256, rounded
        down.
    read_address : In, read_data : Out(32 x lanes)    One cycle later; only while nothing is inside.
    write_address : In, write_data : In, write_enable : In(1)    Only while nothing is inside.
    """

    SUM_AFTER = ProbabilityLane.LATENCY
    """Cycles from a word to its addition; the memory is read two before."""
    LATENCY = SUM_AFTER + 2
    DECAY_DISTANCE = 4

    def __init__(self, sizes: AttentionSizes) -> None:
        self._lanes, self._depth = sizes.softmax_lanes, row_words(sizes)
        address = (self._depth - 1).bit_length()
        super().__init__(
            {
                "i": In(LaneExponentials(sizes)),
                "i_valid": In(1),
                "address": In(address),
                "r": In(RECIPROCAL_BITS + 1),
                "n": In(FLOOR_BITS),
                "decay": In(self._lanes),
                "forget": In(FORGET_FRACTION + 1),
                "read_address": In(address),
                "read_data": Out(IMPORTANCE_BITS * self._lanes),
                "write_address": In(address),
                "write_data": In(IMPORTANCE_BITS * self._lanes),
                "write_enable": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Probabilities beside the read; then scale | add | write."""
        m = Module()
        m.submodules.memory = memory = Ram(width=IMPORTANCE_BITS * self._lanes, depth=self._depth)
        asked = self.SUM_AFTER - 2
        valid = delay(m, self.i_valid, asked, "asked", reset=True)
        address = delay(m, self.address, asked, "asked_address")
        m.d.comb += [
            memory.read_address.eq(Mux(valid, address, self.read_address)),
            self.read_data.eq(memory.read_data),
        ]
        decay = delay(m, self.decay, self.SUM_AFTER - 1, "decay")
        forget = delay(m, self.forget, self.SUM_AFTER - 1, "forget")
        adding = delay(m, valid, 2, "adding", reset=True)
        place = delay(m, address, 2, "place")
        written = delay(m, adding, 1, "written", reset=True)
        written_place = delay(m, place, 1, "written_place")

        sums, sources = [], self._sources(m, adding, place)
        probabilities = self._probabilities(m)
        for lane in range(self._lanes):
            held = memory.read_data.word_select(lane, IMPORTANCE_BITS)
            sums.append(self._sum(m, lane, held, decay[lane], forget, sources, probabilities[lane]))
        m.d.comb += [
            memory.write_enable.eq(written | self.write_enable),
            memory.write_address.eq(Mux(written, written_place, self.write_address)),
            memory.write_data.eq(Mux(written, Cat(*sums), self.write_data)),
        ]
        return m

    def _probabilities(self, m: Module) -> list[Value]:
        """Probabilities of every lane, SUM_AFTER cycles later."""
        n = delay(m, self.n, ProbabilityLane.N_AFTER, "n")
        lanes = [Shared(ProbabilityLane) for _ in range(self._lanes)]
        for number, lane in enumerate(lanes):
            m.submodules[f"lane_{number}"] = lane
            m.d.comb += [lane.e.eq(self.i.e[number]), lane.r.eq(self.r), lane.n.eq(n)]
        return [lane.o for lane in lanes]

    def _sources(self, m: Module, adding: Value, place: Value) -> list[Signal]:
        """Whether the sum of 1, 2 or 3 cycles ago is newer than what the memory gave."""
        found, before, where = [], adding, place
        for distance in range(1, self.DECAY_DISTANCE):
            before = delay(m, before, 1, f"adding_{distance}", reset=True)
            where = delay(m, where, 1, f"place_{distance}")
            hit = Signal(name=f"newer_{distance}")
            m.d.comb += hit.eq(before & (where == place))
            found.append(hit)
        return found

    def _sum(
        self, m: Module, lane: int, held: Value, decay: Value, forget: Value, sources: list[Signal], p: Value
    ) -> Signal:
        """Importance of one lane with `p` added, in a register."""
        scaled = Signal(IMPORTANCE_BITS, name=f"scaled_{lane}", reset_less=True)
        m.d.sync += scaled.eq(Mux(decay, (held * forget) >> FORGET_FRACTION, held))
        result = Signal(IMPORTANCE_BITS, name=f"sum_{lane}", reset_less=True)
        history = [result]
        while len(history) < len(sources):
            history.append(delay(m, history[-1], 1, f"sum_{lane}_before_{len(history)}"))
        before = scaled
        for source, value in reversed(list(zip(sources, history))):
            before = Mux(source, value, before)
        total = Signal(IMPORTANCE_BITS + 1, name=f"total_{lane}")
        m.d.comb += total.eq(before + p)
        m.d.sync += result.eq(Mux(total > SCORE_MAX, SCORE_MAX, total))
        return result
