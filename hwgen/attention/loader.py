"""Heads of keys and values that jobs with `hold` keep on chip: when they are loaded, and where."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch.attention import LOW_BITS, AttentionSizes, KeyMode, ValueMode
from hwgen.attention.buffer import BufferLoad, address_bits
from hwgen.attention.job import JobFields
from hwgen.attention.words import ADDRESS_BITS, FetchCommand

KV_BITS = 5
_PLANES = (
    ("k_addr", "k_stride", "key_bits"),
    ("k_low_addr", "k_low_stride", None),
    ("v_addr", "v_stride", "value_bits"),
    ("v_low_addr", "v_low_stride", None),
)


class HeadLoader(wiring.Component):
    """Fetches the planes of one head of keys and values after the other, if any of their query heads is alive.

    A head goes into the first half of the buffers or, by turns, into either: then it is fetched while rows of the one
    before are worked on. It waits for the last row of the head whose place it takes.

    Timing
    ------
    A command a cycle; a head is ready in the cycle after its last word was written.

    Parameters
    ----------
    sizes : AttentionSizes

    Members
    -------
    job : In(JobFields), start : In(1), alive : In(max_heads)
    halves : In(1)           Two heads fit.
    words : In               Words of a head, where the second half begins.
    at : In(5), at_valid : In(1)    Head of the row that comes next; there is one.
    used : In(2)             Halves that rows in slots use.
    ready : Out(5)           Heads below this one have been loaded.
    keys, values : Out(stream of FetchCommand)
    key_load, value_load : Out(stream of BufferLoad)
    loaded : In(2)           The last word of a plane is written: of keys, of values.
    """

    def __init__(self, sizes: AttentionSizes) -> None:
        self._sizes = sizes
        fetch, load = stream.Signature(FetchCommand()), stream.Signature(BufferLoad(sizes))
        super().__init__(
            {
                "job": In(JobFields()),
                "start": In(1),
                "alive": In(sizes.max_heads),
                "halves": In(1),
                "words": In(address_bits(sizes) + 1),
                "at": In(KV_BITS),
                "at_valid": In(1),
                "used": In(2),
                "ready": Out(KV_BITS),
                **dict.fromkeys(("keys", "values"), Out(fetch)),
                **dict.fromkeys(("key_load", "value_load"), Out(load)),
                "loaded": In(2),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Wait for room | four planes, or fewer | wait for their words."""
        m = Module()
        job, first, side, plane = self.job, Signal(KV_BITS), Signal(), Signal(2)
        addresses = [Signal(ADDRESS_BITS, name=f"address_{number}") for number in range(len(_PLANES))]
        coming, sent, done = Signal(3), Signal(), Signal()
        group = (1 << job.group) - 1
        needed = ((self.alive >> first) & group) != 0
        m.d.sync += coming.eq(coming + sent - self.loaded[0] - self.loaded[1])
        with m.FSM():
            with m.State("wait"):
                room = (self.ready <= self.at + self.halves) & ~self.used.bit_select(side, 1)
                with m.If(self.at_valid & room & (first < job.heads) & job.hold & ~self.start):
                    m.next = "planes"
                    with m.If(~needed):
                        m.d.comb += done.eq(1)
                        m.next = "wait"
            with m.State("planes"):
                taken = self._plane(m, plane, side, addresses, sent)
                with m.If(taken):
                    m.d.sync += plane.eq(plane + 1)
                    with m.If(plane == len(_PLANES) - 1):
                        m.next = "arrive"
            with m.State("arrive"), m.If(coming == 0):
                m.d.comb += done.eq(1)
                m.next = "wait"
        with m.If(done):
            m.d.sync += [self.ready.eq(self.ready + 1), first.eq(first + job.group), side.eq(side ^ self.halves)]
            m.d.sync += [place.eq(place + job[stride]) for place, (_, stride, _) in zip(addresses, _PLANES)]
        with m.If(self.start):
            m.d.sync += [self.ready.eq(0), first.eq(0), side.eq(0), plane.eq(0)]
            m.d.sync += [place.eq(job[base]) for place, (base, _, _) in zip(addresses, _PLANES)]
        return m

    def _plane(self, m: Module, plane: Signal, side: Signal, addresses: list[Signal], sent: Signal) -> Signal:
        """Commands of a plane, if it is wanted; gives whether it has been dealt with."""
        job, taken = self.job, Signal()
        wanted = (
            1,
            job.key_low & (job.key_mode != KeyMode.NEVER),
            1,
            job.value_low & (job.value_mode != ValueMode.NEVER),
        )
        for number, (_, _, bits) in enumerate(_PLANES):
            fetch, load = (self.keys, self.key_load) if number < 2 else (self.values, self.value_load)
            with m.If(plane == number):
                m.d.comb += [
                    fetch.valid.eq(wanted[number] & load.ready),
                    load.valid.eq(wanted[number] & fetch.ready),
                    sent.eq(fetch.valid & fetch.ready),
                    taken.eq(sent | ~wanted[number] if number % 2 else sent),
                    fetch.payload.address.eq(addresses[number]),
                    fetch.payload.bits.eq(job[bits] if bits else LOW_BITS),
                    fetch.payload.head_size.eq(job.head_size),
                    fetch.payload.rows.eq(job.keys),
                    *(fetch.payload[name].eq(0) for name in ("first", "gather", "single", "query")),
                    load.payload.base.eq(Mux(side, self.words, 0)),
                    load.payload.low.eq(bits is None),
                ]
        return taken
