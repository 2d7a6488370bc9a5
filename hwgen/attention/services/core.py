"""The jobs beside attention: all parts connected, in front of the ports of the attention engine."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch.attention import AttentionSizes
from hwgen.arch.services import Job
from hwgen.attention.importance import IMPORTANCE_BITS, token_ports
from hwgen.attention.services.descriptor import ServiceReader
from hwgen.attention.services.gather import GatherJob
from hwgen.attention.services.quantize import QuantizeJob
from hwgen.attention.services.rank import RankJob
from hwgen.attention.services.read import SpanReader
from hwgen.attention.services.state import StateJob
from hwgen.attention.services.words import ServiceCommand
from hwgen.attention.services.write import CHANNELS, WritePort
from hwgen.attention.words import ReadRequest
from hwgen.attention.writer import WriteBeat


class ServiceCore(wiring.Component):
    """Runs jobs beside attention, one after the other, while no attention job runs.

    Parameters
    ----------
    sizes : AttentionSizes
    operand : str       Format of what QUANTIZE reads, "fp16" or "bf16".
    mul_latency : int   Registers of the multipliers of the quantiser.

    Members
    -------
    command : In(stream of ServiceCommand)    Whose payload is held until the job has ended.
    request : Out(stream of ReadRequest), data : In(stream of beat)         Beats in the order of requests.
    write_request : Out(stream of ReadRequest), write_data : Out(stream of WriteBeat)
    token_address, token_data, token_write_address, token_write_data, token_write_enable    For those of AttentionCore.
    heads : In(32 x max_heads), heads_clear : Out(1)    For those of AttentionCore.
    alive : Out(max_heads)         Heads that are alive.
    busy : Out(1)                  A job is being read or run.
    done, error : Out(1)           For a cycle: a job has ended; a job was refused, nothing was done.
    """

    def __init__(self, sizes: AttentionSizes, *, operand: str = "fp16", mul_latency: int = 3) -> None:
        self._sizes, self._operand, self._mul_latency = sizes, operand, mul_latency
        super().__init__(
            {
                "command": In(stream.Signature(ServiceCommand())),
                "request": Out(stream.Signature(ReadRequest())),
                "data": In(stream.Signature(8 * sizes.beat_bytes)),
                "write_request": Out(stream.Signature(ReadRequest())),
                "write_data": Out(stream.Signature(WriteBeat(sizes.beat_bytes))),
                **token_ports(sizes),
                "heads": In(IMPORTANCE_BITS * sizes.max_heads),
                "heads_clear": Out(1),
                "alive": Out(sizes.max_heads, init=(1 << sizes.max_heads) - 1),
                **dict.fromkeys(("busy", "done", "error"), Out(1)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """The descriptor, then the job that it names has the ports until nothing is left of it."""
        m = Module()
        sizes = self._sizes
        m.submodules.reader = reader = ServiceReader(sizes)
        m.submodules.spans = spans = SpanReader(sizes)
        m.submodules.port = port = WritePort(beat_bytes=sizes.beat_bytes)
        m.submodules.quantize = quantize = QuantizeJob(sizes, operand=self._operand, mul_latency=self._mul_latency)
        m.submodules.gather = gather = GatherJob(sizes)
        m.submodules.rank = rank = RankJob(sizes)
        m.submodules.state = state = StateJob(sizes)
        parts = {
            quantize: (Job.QUANTIZE,),
            gather: (Job.GATHER,),
            rank: (Job.SELECT, Job.TOPK),
            state: (Job.SAVE, Job.RESTORE),
        }
        for source, target in (
            (spans.request, self.request),
            (port.request, self.write_request),
            (port.data, self.write_data),
        ):
            wiring.connect(m, source, wiring.flipped(target))
        wiring.connect(m, wiring.flipped(self.data), spans.data)
        running = self._run(m, reader, (spans, port, *parts))
        with m.If(~running):
            self._pass(m, reader.span, spans.i)
            m.d.comb += [reader.data_valid.eq(spans.o.valid), spans.o.ready.eq(1)]
        m.d.comb += reader.data.eq(spans.o.payload.data)
        for part, jobs in parts.items():
            own = Signal(name=f"own_{jobs[0].name.lower()}")
            m.d.comb += [own.eq(Cat(reader.job == job for job in jobs).any()), part.start.eq(reader.start & own)]
            self._lend(m, running & own, part, spans, port)
        m.d.comb += [
            *(quantize.fields.eq(reader.quantize), gather.fields.eq(reader.gather), quantize.alive.eq(self.alive)),
            *(rank.select.eq(reader.select), rank.topk.eq(reader.topk), rank.values.eq(reader.job == Job.TOPK)),
            *(
                state.save.eq(reader.save),
                state.restore.eq(reader.restore),
                state.restores.eq(reader.job == Job.RESTORE),
            ),
            *(rank.alive.eq(self.alive), rank.heads.eq(self.heads)),
        ]
        moves = (reader.job == Job.SAVE) | (reader.job == Job.RESTORE)
        self._importance(m, moves, state, rank)
        with m.If(reader.start & (reader.job == Job.RESET)):
            m.d.sync += self.alive.eq((1 << sizes.max_heads) - 1)
            m.d.comb += self.heads_clear.eq(1)
        return m

    def _run(self, m: Module, reader: ServiceReader, parts: tuple) -> Signal:
        """Whether a job runs; it has ended when nothing is under way."""
        running, reading = Signal(), Signal()
        taken = self.command.valid & self.command.ready
        m.d.comb += [
            reader.command.payload.eq(self.command.payload),
            reader.command.valid.eq(self.command.valid & ~running),
            self.command.ready.eq(reader.command.ready & ~running),
            self.done.eq(running & ~Cat(part.busy for part in parts).any()),
            self.error.eq(reader.error),
            self.busy.eq(running | reading),
        ]
        with m.If(taken):
            m.d.sync += reading.eq(1)
        with m.Elif(reader.start | reader.error):
            m.d.sync += [reading.eq(0), running.eq(reader.start)]
        with m.Elif(self.done):
            m.d.sync += running.eq(0)
        return running

    def _lend(self, m: Module, runs: Value, part: wiring.Component, spans: SpanReader, port: WritePort) -> None:
        """The ports, to a job while it runs."""
        m.d.comb += part.data.payload.eq(spans.o.payload)
        with m.If(runs):
            self._pass(m, part.span, spans.i)
            m.d.comb += [part.data.valid.eq(spans.o.valid), spans.o.ready.eq(part.data.ready)]
            for number in range(CHANNELS):
                if hasattr(part, f"o_{number}"):
                    self._pass(m, getattr(part, f"span_{number}"), getattr(port, f"span_{number}"))
                    self._pass(m, getattr(part, f"o_{number}"), getattr(port, f"i_{number}"))

    def _importance(self, m: Module, moves: Value, state: StateJob, rank: RankJob) -> None:
        """Importance is for two kinds of jobs; `moves`: for the one that moves it."""
        names = ("token_address", "token_write_address", "token_write_data", "token_write_enable")
        m.d.comb += [
            *(part.token_data.eq(self.token_data) for part in (state, rank)),
            *(getattr(self, name).eq(Mux(moves, getattr(state, name), getattr(rank, name))) for name in names),
        ]
        for part in (state, rank):
            with m.If(part.survive):
                m.d.sync += self.alive.eq(part.survivors)

    def _pass(self, m: Module, source: stream.Interface, target: stream.Interface) -> None:
        """Items go from one to the other."""
        m.d.comb += [
            target.payload.eq(source.payload),
            target.valid.eq(source.valid),
            source.ready.eq(target.ready),
        ]
