"""The descriptor of a job beside attention, read from memory and checked."""

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch.attention import AttentionSizes
from hwgen.arch.services import SERVICE_BYTES, SERVICES, Job
from hwgen.attention.services.check import refused
from hwgen.attention.services.words import JOB_BITS, BeatSpan, ServiceCommand, ServiceFields
from hwgen.attention.words import ADDRESS_BITS


class ServiceReader(wiring.Component):
    """Takes a command, reads its descriptor, and says that the job starts or is refused.

    Timing
    ------
    `start` or `error` 2 cycles after the last beat of the descriptor; 1 cycle after the command for RESET and for
    commands that are no job or whose address is no multiple of the beat size.

    Parameters
    ----------
    sizes : AttentionSizes

    Members
    -------
    command : In(stream of ServiceCommand)  The payload is held until the job has ended; `job` follows it.
    span : Out(stream of BeatSpan)
    data : In(beat), data_valid : In(1)     Beats of the descriptor.
    job : Out(3)                            Of the command, from the cycle after it on.
    quantize, select, gather, topk, save, restore : Out(ServiceFields)   The descriptor as each job reads it; from
                                            `start` on.
    start, error : Out(1)                   One of them, for a cycle, for every command.
    """

    def __init__(self, sizes: AttentionSizes) -> None:
        self._sizes, self._beat = sizes, sizes.beat_bytes
        super().__init__(
            {
                "command": In(stream.Signature(ServiceCommand())),
                "span": Out(stream.Signature(BeatSpan())),
                "data": In(8 * self._beat),
                "data_valid": In(1),
                "job": Out(JOB_BITS),
                **{job.name.lower(): Out(ServiceFields(job)) for job, fields in SERVICES.items() if fields},
                "start": Out(1),
                "error": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Command | beats | check."""
        m = Module()
        beats = max(1, SERVICE_BYTES // self._beat)
        address, image = Signal(ADDRESS_BITS), Signal(8 * max(SERVICE_BYTES, self._beat))
        arrived, bad = Signal(range(beats + 1)), Signal()
        m.d.comb += [
            self.span.payload.address.eq(address),
            self.span.payload.beats.eq(beats),
            self.span.payload.table.eq(1),
        ]
        for job in (job for job, fields in SERVICES.items() if fields):
            view = getattr(self, job.name.lower())
            m.d.comb += Value.cast(view).eq(image)
            with m.If(self.job == job):
                m.d.comb += bad.eq(refused(job, view, self._sizes))
        with m.If(self.data_valid):
            m.d.sync += [image.eq(Cat(image, self.data)[len(self.data) :]), arrived.eq(arrived + 1)]
        with m.FSM():
            with m.State("idle"):
                command = self.command.payload
                m.d.comb += self.command.ready.eq(1)
                m.d.sync += [self.job.eq(command.job), address.eq(command.address), arrived.eq(0)]
                with m.If(self.command.valid):
                    m.next = "sort"
            with m.State("sort"):
                known = Cat(self.job == job for job in SERVICES).any()
                reset = self.job == Job.RESET
                misplaced = address[: self._beat.bit_length() - 1].any()
                m.d.comb += [self.start.eq(reset), self.error.eq(~reset & (~known | misplaced))]
                m.next = "ask"
                with m.If(reset | self.error):
                    m.next = "idle"
            with m.State("ask"):
                m.d.comb += self.span.valid.eq(1)
                with m.If(self.span.ready):
                    m.next = "wait"
            with m.State("wait"), m.If(arrived == beats):
                m.d.comb += [self.start.eq(~bad), self.error.eq(bad)]
                m.next = "idle"
        return m
