"""The attention engine: all parts connected, in front of a port for reads and one for writes."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch.attention import EXP_BITS, AttentionSizes
from hwgen.attention.finish import FinishStage
from hwgen.attention.importance import IMPORTANCE_BITS, token_ports
from hwgen.attention.issue import RowIssue
from hwgen.attention.job import JobReader, job_prunes
from hwgen.attention.key_side import KeySide
from hwgen.attention.loader import HeadLoader
from hwgen.attention.passes import PassIssue
from hwgen.attention.read_port import ReadPort
from hwgen.attention.results import ResultStage
from hwgen.attention.rows import RowPlace, RowTable, row_words, slot_bits
from hwgen.attention.score_stage import Inverse, ScoreStage
from hwgen.attention.value_side import ValueSide
from hwgen.attention.words import ADDRESS_BITS, ReadRequest
from hwgen.attention.writer import WriteBeat
from hwgen.lib.ram import Ram
from hwgen.lib.streams import Queue

COUNTER_BITS = 32
COUNTERS = ("cycles", "products_busy", "read_beats", "write_beats")


class AttentionCore(wiring.Component):
    """Runs jobs, one after the other.

    Parameters
    ----------
    sizes : AttentionSizes
    operand : str       Format of outputs, "fp16" or "bf16".
    mul_latency : int   Registers of the multipliers of the scaling.

    Members
    -------
    command : In(stream of 48)     Byte address of a job's descriptor, a multiple of the beat size. That of the next job
        is taken while one runs.
    request : Out(stream of ReadRequest), data : In(stream of beat)         Beats in the order of requests.
    write_request : Out(stream of ReadRequest), write_data : Out(stream of WriteBeat)
    alive : In(max_heads)          Heads that are not alive are skipped.
    heads : Out(32 x max_heads), heads_clear : In(1)    Importance of heads.
    token_address, token_data, token_write_address, token_write_data, token_write_enable    Importance of tokens, a word
        of `softmax_lanes`; only while nothing runs. Data come a cycle after their address.
    busy : Out(1)                  A job is being read or run.
    done, error : Out(1)           For a cycle: a job has ended; a job was refused, nothing was done.
    cycles, products_busy, read_beats, write_beats : Out(32)    Of the job at hand, or the last one until the cycle
        after its end: cycles from its command, or from the end of the job before, to its end; cycles in which products
        took a word; beats of both ports, with those of the descriptor that is read ahead.
    """

    def __init__(self, sizes: AttentionSizes, *, operand: str = "fp16", mul_latency: int = 3) -> None:
        self._sizes, self._operand, self._mul_latency = sizes, operand, mul_latency
        super().__init__(
            {
                "command": In(stream.Signature(ADDRESS_BITS)),
                "request": Out(stream.Signature(ReadRequest())),
                "data": In(stream.Signature(8 * sizes.beat_bytes)),
                "write_request": Out(stream.Signature(ReadRequest())),
                "write_data": Out(stream.Signature(WriteBeat(sizes.beat_bytes))),
                "alive": In(sizes.max_heads),
                "heads": Out(IMPORTANCE_BITS * sizes.max_heads),
                "heads_clear": In(1),
                **token_ports(sizes).flip(),
                **dict.fromkeys(("busy", "done", "error"), Out(1)),
                **dict.fromkeys(COUNTERS, Out(COUNTER_BITS)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Parts, then the streams between them."""
        m = Module()
        sizes = self._sizes
        parts = {
            "reader": JobReader(sizes),
            "issue": RowIssue(sizes),
            "loader": HeadLoader(sizes),
            "passes": PassIssue(sizes),
            "keys": KeySide(sizes),
            "score_stage": ScoreStage(sizes),
            "finish": FinishStage(sizes),
            "values": ValueSide(sizes),
            "results": ResultStage(sizes, operand=self._operand, mul_latency=self._mul_latency),
            "port": ReadPort(clients=3, beat_bytes=sizes.beat_bytes, depth=max(16, sizes.reads_in_flight)),
            "places": RowTable(RowPlace(), slots=sizes.rows_in_flight, ports=7),
            "inverses": RowTable(Inverse(), slots=sizes.rows_in_flight, ports=2),
        }
        for name, part in parts.items():
            m.submodules[name] = part
            setattr(self, f"_{name}", part)
        self._ports = 0
        for connect in (
            *(self._memory, self._job, self._rows, self._hold, self._softmax, self._exponentials),
            *(self._results_of, self._release, self._counters),
        ):
            connect(m)
        return m

    def _memory(self, m: Module) -> None:
        """Value fetch first, then key fetch, then descriptors."""
        port = self._port
        for number, part in enumerate((self._values, self._keys, self._reader)):
            wiring.connect(m, part.request, getattr(port, f"client_request_{number}"))
            wiring.connect(m, getattr(port, f"client_data_{number}"), part.data)
        wiring.connect(m, port.request, wiring.flipped(self.request))
        wiring.connect(m, wiring.flipped(self.data), port.data)

    def _job(self, m: Module) -> None:
        """A job begins, and ends when nothing of it is left."""
        reader, ended, quiet = self._reader, Signal(), Signal(range(4))
        wiring.connect(m, wiring.flipped(self.command), reader.command)
        running, issue, finish = Signal(), self._issue, self._finish
        for part in (issue, self._loader, self._passes, self._score_stage, finish, self._values, self._results):
            m.d.comb += part.job.eq(reader.job)
        living = self.alive & ((1 << reader.job.heads) - 1)
        empty = self._passes.free == (1 << self._sizes.rows_in_flight) - 1
        m.d.comb += [
            issue.start.eq(reader.start),
            finish.start.eq(reader.start & reader.job.importance & living.any()),
            # Rows wait for their tables; a job whose heads are all gone has none that would.
            ended.eq(running & empty & ~issue.o.valid & ~finish.busy & ~self._results.busy & ~reader.arriving),
            *(self.done.eq(quiet == 3), reader.finished.eq(self.done)),
            *(self.error.eq(reader.error), self.busy.eq(reader.busy)),
        ]
        m.d.sync += quiet.eq(Mux(ended & ~self.done, quiet + 1, 0))
        with m.If(reader.start):
            m.d.sync += running.eq(1)
        with m.If(self.done):
            m.d.sync += running.eq(0)

    def _rows(self, m: Module) -> None:
        """Rows go into slots, those of skipped heads to the writer."""
        issue, passes, places = self._issue, self._passes, self._places
        row = issue.o.payload
        m.d.comb += [
            issue.alive.eq(self.alive),
            passes.rows.payload.eq(row),
            passes.rows.valid.eq(issue.o.valid & ~row.zero),
            self._results.zeros.payload.eq(row.output),
            self._results.zeros.valid.eq(issue.o.valid & row.zero),
            issue.o.ready.eq(Mux(row.zero, self._results.zeros.ready, passes.rows.ready)),
            places.write_enable.eq(passes.taken),
            places.write_slot.eq(passes.taken_slot),
            places.write_data.eq(passes.taken_place),
        ]
        low = Queue(shape=slot_bits(self._sizes), depth=self._sizes.rows_in_flight)
        m.submodules.low = low
        wiring.connect(m, low.o, passes.low)
        m.d.comb += [
            low.i.valid.eq(self._score_stage.low.valid),
            low.i.payload.eq(self._score_stage.low.payload),
            passes.low_place.eq(self._look_up(m, low.o.payload)),
        ]

    def _look_up(self, m: Module, slot: Value) -> data.View:
        """The row in a slot."""
        port, self._ports = self._ports, self._ports + 1
        m.d.comb += getattr(self._places, f"slot_{port}").eq(slot)
        return getattr(self._places, f"entry_{port}")

    def _hold(self, m: Module) -> None:
        """Heads that are held, and commands for keys."""
        reader, loader, passes, keys, values = self._reader, self._loader, self._passes, self._keys, self._values
        m.d.comb += [
            *(loader.start.eq(reader.start), loader.alive.eq(self.alive)),
            *(loader.words.eq(reader.words), loader.halves.eq(reader.halves), self._issue.halves.eq(reader.halves)),
            self._issue.words.eq(reader.words),
            *(passes.ready.eq(loader.ready), loader.used.eq(passes.used | self._results.used)),
            *(loader.at.eq(self._issue.o.payload.kv_head), loader.at_valid.eq(self._issue.o.valid)),
            *(loader.loaded.eq(Cat(keys.loaded, values.loaded)), keys.hold.eq(reader.job.hold)),
            *(keys.query_slot.eq(passes.query_slot), passes.query_next.eq(keys.query_next)),
            *(reader.index.eq(keys.index), keys.mask.eq(reader.mask)),
        ]
        for source, target in (
            (loader.keys, passes.load),
            (loader.key_load, keys.load),
            (loader.values, values.load_fetch),
            (loader.value_load, values.load),
            (passes.fetch, keys.fetch),
            (passes.held, keys.held),
            (passes.products, keys.command),
        ):
            wiring.connect(m, source, target)

    def _softmax(self, m: Module) -> None:
        """From scores to e, and what reads e first."""
        stage, keys, finish, reader = self._score_stage, self._keys, self._finish, self._reader
        m.d.comb += [
            *(stage.taken.eq(self._passes.taken), stage.taken_slot.eq(self._passes.taken_slot)),
            *(stage.result.eq(keys.result), stage.result_valid.eq(keys.result_valid)),
            stage.place.eq(self._look_up(m, stage.slot)),
            *(reader.record_head_0.eq(stage.record_head), stage.record.eq(reader.record_0)),
            stage.refine_place.eq(self._look_up(m, stage.refine_slot)),
            *(reader.record_head_2.eq(stage.refine_head), stage.refine_record.eq(reader.record_2)),
            *(stage.old_valid.eq(keys.old_valid), stage.old_buffer.eq(keys.old_buffer)),
            *(keys.address.eq(stage.address), keys.buffer.eq(stage.buffer), stage.scores.eq(keys.scores)),
            self._inverses.write_slot.eq(stage.inverse_slot),
            self._inverses.write_data.eq(stage.inverse),
            self._inverses.write_enable.eq(stage.inverse_write),
            finish.place.eq(self._look_up(m, finish.slot)),
            *(keys.slot.eq(finish.slot), finish.seen.eq(keys.seen)),
            *(self._inverses.slot_0.eq(finish.word_slot), finish.inverse.eq(self._inverses.entry_0)),
            finish.rows.payload.eq(stage.final.payload),
            finish.rows.valid.eq(stage.final.valid & (job_prunes(stage.job) | stage.job.importance)),
        ]
        wiring.connect(m, stage.indices, keys.indices)
        for name in ("token_address", "token_write_address", "token_write_data", "token_write_enable"):
            m.d.comb += getattr(finish, name).eq(getattr(self, name))
        m.d.comb += self.token_data.eq(finish.token_data)

    def _exponentials(self, m: Module) -> None:
        """Two memories for e of every row: for importance and selection, and for weights."""
        stage, sizes = self._score_stage, self._sizes
        for name, user in (("e", self._finish), ("weights_e", self._values)):
            memory = Ram(width=EXP_BITS * sizes.softmax_lanes, depth=sizes.rows_in_flight * row_words(sizes))
            m.submodules[name] = memory
            m.d.comb += [
                memory.write_enable.eq(stage.e_write),
                memory.write_address.eq(stage.e_address),
                memory.write_data.eq(stage.e_data),
                memory.read_address.eq(user.e_address),
                user.e_bits.eq(memory.read_data),
            ]

    def _results_of(self, m: Module) -> None:
        """Values to sums, sums to memory."""
        stage, values, results = self._score_stage, self._values, self._results
        for source, target in (
            (stage.certain, values.certain),
            (stage.final, values.rows),
            (stage.empty, results.empty),
        ):
            m.d.comb += [target.payload.eq(source.payload), target.valid.eq(source.valid)]
        wiring.connect(m, self._finish.kept, values.kept)
        wiring.connect(m, self._finish.marked, values.marked)
        wiring.connect(m, values.o, results.sums)
        wiring.connect(m, results.request, wiring.flipped(self.write_request))
        wiring.connect(m, results.data, wiring.flipped(self.write_data))
        m.d.comb += [
            values.refined.eq(stage.refined),
            values.fetch_place.eq(self._look_up(m, values.fetch_slot)),
            values.place.eq(self._look_up(m, values.slot)),
            *(stage.growth_slot.eq(values.slot), values.growth.eq(stage.growth)),
            *(results.begins.eq(values.begins), values.may_begin.eq(results.may_begin)),
            *(self._inverses.slot_1.eq(values.slot), results.begin_inverse.eq(self._inverses.entry_1)),
            *(results.begin_place.eq(values.place), results.empty_place.eq(self._look_up(m, results.empty_slot))),
            *(self._reader.record_head_1.eq(results.record_head), results.record.eq(self._reader.record_1)),
            *(self.heads.eq(results.heads), results.heads_clear.eq(self.heads_clear)),
        ]

    def _release(self, m: Module) -> None:
        """A slot is free when e of its row has been read by all who need it."""
        finish, values, results = self._finish, self._values, self._results
        for slot in range(self._sizes.rows_in_flight):
            reading, weighed = Signal(name=f"reading_{slot}"), Signal(name=f"weighed_{slot}")
            read, left = finish.read & (finish.word_slot == slot), values.leaves & (values.slot == slot)
            with m.If(finish.rows.valid & (finish.rows.payload == slot)):
                m.d.sync += reading.eq(1)
            with m.If(read):
                m.d.sync += reading.eq(0)
            ends = (weighed | left) & (read | ~reading)
            m.d.sync += weighed.eq((weighed | left) & ~ends)
            m.d.comb += self._passes.release[slot].eq(ends | (results.empty_done & (results.empty_slot == slot)))

    def _counters(self, m: Module) -> None:
        """What a job takes, from its command on."""
        counted = {
            "cycles": self.busy,
            "products_busy": self._keys.multiplies,
            "read_beats": self._port.beats,
            "write_beats": self.write_data.valid & self.write_data.ready,
        }
        for name, event in counted.items():
            counter = getattr(self, name)
            with m.If(self._reader.begins):
                m.d.sync += counter.eq(event)
            with m.Elif(event):
                m.d.sync += counter.eq(counter + 1)
