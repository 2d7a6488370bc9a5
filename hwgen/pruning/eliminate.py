"""The zero eliminator: takes the items out that do not count, and packs the others densely."""

from functools import reduce

from amaranth.hdl import Cat, Const, Module, Mux, ShapeLike, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.pruning.words import WIDTHS, DenseBeat, SparseBeat

LEVELS = 4
"""Exchange levels between two registers: a lookup table each."""


def eliminator_latency(width: int) -> int:
    """Cycles from a beat taken to the dense beat that it completes."""
    return 1 + max(1, -(-(width.bit_length() - 1) // LEVELS))


def prefix_counts(m: Module, bits: list[Value], name: str) -> list[Value]:
    """For each bit, how many of those before it are set, and for all at the end: a Sklansky tree of adders."""
    sums, step = list(bits), 1
    while step < len(sums):
        level = list(sums)
        for place in (place for place in range(len(sums)) if place // step % 2):
            level[place] = Signal(range(2 * step + 1), name=f"{name}_{step}_{place}")
            m.d.comb += level[place].eq(sums[place] + sums[place // step * step - 1])
        sums, step = level, 2 * step
    return [Const(0, 1), *sums]


class ZeroEliminator(wiring.Component):
    """Packs the items that `mask` names into dense beats, in order, across beats of a sequence.

    Every item is sent to lane (items before it) mod `width`. An exchange network does it in log2(width) levels, lowest
    bit of the lane first: two items that meet at level s were less than 2**(s + 1) lanes apart, so their destinations,
    which are no farther apart, differ in the bits that have been routed. The network never blocks.

    Every sequence ends with a beat marked `last`; one without items is a single beat with `count` 0. A full beat waits
    until it is known whether it is the last.

    Timing
    ------
    One beat a cycle in, but a last one that completes a beat and begins another takes two. A beat is offered `latency`
    cycles after the one that fills it up and goes over, or ends it, was taken; the rest of such a last beat a cycle
    later. `i.ready` depends on `o.ready`.

    Parameters
    ----------
    shape : ShapeLike   Items.
    width : int         Lanes, one of `WIDTHS`.

    Members
    -------
    i : In(stream of SparseBeat)
    o : Out(stream of DenseBeat)
    busy : Out(1)   Something is inside, or a sequence has begun.
    """

    def __init__(self, *, shape: ShapeLike, width: int) -> None:
        if width not in WIDTHS:
            raise ValueError(f"ZeroEliminator width must be one of {', '.join(map(str, WIDTHS))}, not {width!r}")
        self._shape, self._width = shape, width
        super().__init__(
            {
                "i": In(stream.Signature(SparseBeat(shape, width))),
                "o": Out(stream.Signature(DenseBeat(shape, width))),
                "busy": Out(1),
            }
        )

    @property
    def latency(self) -> int:
        """Cycles from a beat taken to the dense beat that it completes."""
        return eliminator_latency(self._width)

    def elaborate(self, platform: object) -> Module:
        """Ranks, network, merge with what is held; all registers move at once or not at all."""
        m = Module()
        width = self._width
        advance, held = Signal(), Signal(range(width + 1))
        m.d.comb += self.i.ready.eq(advance)

        rank_stage = self._rank(m, advance)
        total = Signal(range(2 * width + 1))
        over, fill = Signal(), Signal(range(width + 1))
        m.d.comb += [
            total.eq(held + rank_stage.count),
            over.eq(total > width),
            fill.eq(Mux(over, total - width, total)),
        ]
        with m.If(advance & rank_stage.valid):
            m.d.sync += held.eq(Mux(rank_stage.last, 0, fill))

        lanes = [
            (Value.cast(item), rank_stage.mask[lane], (held + rank)[: max(1, width.bit_length() - 1)])
            for lane, (item, rank) in enumerate(zip(rank_stage.items, rank_stage.ranks))
        ]
        control = Cat(rank_stage.valid, rank_stage.last, rank_stage.error, over, held, fill)
        items, control, inside = self._network(m, advance, lanes, control)
        self._merge(m, advance, items, control, len(held))
        m.d.comb += self.busy.eq(rank_stage.valid | (held != 0) | inside)
        return m

    def _rank(self, m: Module, advance: Value) -> "_Ranked":
        payload = self.i.payload
        counts = prefix_counts(m, list(payload.mask), "rank")
        stage = _Ranked(payload, counts)
        with m.If(advance):
            m.d.sync += [
                stage.valid.eq(self.i.valid),
                stage.last.eq(payload.last),
                stage.error.eq(payload.error),
                stage.mask.eq(payload.mask),
                stage.count.eq(counts[-1]),
                *(register.eq(Value.cast(item)) for register, item in zip(stage.items, payload.items)),
                *(register.eq(count) for register, count in zip(stage.ranks, counts)),
            ]
        return stage

    def _network(self, m: Module, advance: Value, lanes: list, control: Value) -> tuple[list, Value, Value]:
        """Route `lanes` (item, valid, destination); returns items, `control` beside them, and whether any is valid."""
        levels, inside = self._width.bit_length() - 1, []
        for level in range(max(1, levels)):
            if level < levels:
                lanes = [_exchange(m, lanes, lane, level) for lane in range(self._width)]
            if level % LEVELS == LEVELS - 1 or level >= levels - 1:
                stage = [tuple(Signal(len(part), reset_less=True) for part in lane) for lane in lanes]
                later = Signal(len(control), name=f"control_{level}")
                with m.If(advance):
                    m.d.sync += [new.eq(old) for news, olds in zip(stage, lanes) for new, old in zip(news, olds)]
                    m.d.sync += later.eq(control)
                lanes, control = stage, later
                inside.append(control[0])
        return [item for item, _, _ in lanes], control, reduce(lambda a, b: a | b, inside)

    def _merge(self, m: Module, advance: Value, items: list, control: Value, fill_bits: int) -> None:
        """Complete what is held with the items routed; offer it when it overflows or ends, then what is over."""
        valid, last, error, over = control[:4]
        fill, rest = control[4 : 4 + fill_bits], control[4 + fill_bits :]
        flush, output = Signal(), self.o.payload
        held = [Signal(len(item), name=f"held_{lane}", reset_less=True) for lane, item in enumerate(items)]
        merged = [Mux((fill > lane) & ~flush, held[lane], item) for lane, item in enumerate(items)]
        spills = over & last & ~flush
        m.d.comb += [
            self.o.valid.eq(valid & (over | last)),
            output.count.eq(Mux(over & ~flush, self._width, rest)),
            output.last.eq(last & ~spills),
            output.error.eq(error & output.last),
            *(Value.cast(output.items[lane]).eq(item) for lane, item in enumerate(merged)),
            advance.eq(~self.o.valid | (self.o.ready & ~spills)),
        ]
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += flush.eq(spills)
        with m.If(advance & valid):
            m.d.sync += [register.eq(Mux(over, item, new)) for register, item, new in zip(held, items, merged)]


class _Ranked:
    """Registers behind the ranks."""

    def __init__(self, payload: object, counts: list) -> None:
        self.valid, self.last, self.error = Signal(), Signal(), Signal()
        self.mask = Signal(len(payload.mask), reset_less=True)
        self.count = Signal(len(self.mask).bit_length(), reset_less=True)
        self.items = [Signal(len(Value.cast(item)), reset_less=True) for item in payload.items]
        self.ranks = [Signal(range(max(2, lane + 1)), reset_less=True) for lane in range(len(self.mask))]


def _exchange(m: Module, lanes: list, lane: int, level: int) -> tuple[Value, Value, Value]:
    """What `lane` holds after a level: its own item, or that of its partner if it is to come here."""
    own, partner = lanes[lane], lanes[lane ^ 1 << level]
    side = lane >> level & 1
    comes, stays = (valid & (to[level] == side) for _, valid, to in (partner, own))
    routed = tuple(Signal(len(part), name=f"routed_{level}_{lane}") for part in own)
    m.d.comb += [
        routed[0].eq(Mux(comes, partner[0], own[0])),
        routed[1].eq(comes | stays),
        routed[2].eq(Mux(comes, partner[2], own[2])),
    ]
    return routed
