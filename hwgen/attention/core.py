"""The attention engine: all parts connected, in front of a port for reads and one for writes."""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch.attention import EXP_BITS, AttentionSizes
from hwgen.attention.buffer import RowBuffer
from hwgen.attention.fetch import RowFetch
from hwgen.attention.finish import FinishStage
from hwgen.attention.importance import IMPORTANCE_BITS
from hwgen.attention.issue import RowIssue
from hwgen.attention.job import JobReader, job_prunes
from hwgen.attention.loader import HeadLoader
from hwgen.attention.passes import PassIssue
from hwgen.attention.products import Products
from hwgen.attention.read_port import ReadPort
from hwgen.attention.results import ResultStage
from hwgen.attention.rows import RowPlace, RowTable, row_words, slot_bits
from hwgen.attention.score_stage import Inverse, ScoreStage
from hwgen.attention.scores import ScoreBuffers
from hwgen.attention.values import ValueStage
from hwgen.attention.weighted import WeightedSum
from hwgen.attention.words import ADDRESS_BITS, INDEX_BITS, ReadRequest
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
    command : In(stream of 48)     Byte address of a job's descriptor, a multiple of the beat size.
    request : Out(stream of ReadRequest), data : In(stream of beat)         Beats in the order of requests.
    write_request : Out(stream of ReadRequest), write_data : Out(stream of WriteBeat)
    alive : In(max_heads)          Heads that are not alive are skipped.
    heads : Out(32 x max_heads), heads_clear : In(1)    Importance of heads.
    token_address, token_data, token_write_address, token_write_data, token_write_enable    Importance of tokens, a word
        of `softmax_lanes`; only while nothing runs. Data come a cycle after their address.
    busy : Out(1)                  A job is being read or run.
    done, error : Out(1)           For a cycle: a job has ended; a job was refused, nothing was done.
    cycles, products_busy, read_beats, write_beats : Out(32)    Of the job at hand or the last one: cycles from its
        command to its end, cycles in which products took a word, beats of both ports.
    """

    def __init__(self, sizes: AttentionSizes, *, operand: str = "fp16", mul_latency: int = 3) -> None:
        self._sizes, self._operand, self._mul_latency = sizes, operand, mul_latency
        beat, word = stream.Signature(8 * sizes.beat_bytes), range(row_words(sizes))
        token = IMPORTANCE_BITS * sizes.softmax_lanes
        super().__init__(
            {
                "command": In(stream.Signature(ADDRESS_BITS)),
                "request": Out(stream.Signature(ReadRequest())),
                "data": In(beat),
                "write_request": Out(stream.Signature(ReadRequest())),
                "write_data": Out(stream.Signature(WriteBeat(sizes.beat_bytes))),
                "alive": In(sizes.max_heads),
                "heads": Out(IMPORTANCE_BITS * sizes.max_heads),
                "heads_clear": In(1),
                "token_address": In(word),
                "token_data": Out(token),
                "token_write_address": In(word),
                "token_write_data": In(token),
                "token_write_enable": In(1),
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
            "passes": PassIssue(sizes),
            "loader": HeadLoader(sizes),
            "key_buffer": RowBuffer(sizes),
            "value_buffer": RowBuffer(sizes),
            "products": Products(sizes),
            "scores": ScoreBuffers(sizes),
            "score_stage": ScoreStage(sizes),
            "finish": FinishStage(sizes),
            "value_stage": ValueStage(sizes),
            "weighted": WeightedSum(sizes),
            "results": ResultStage(sizes, operand=self._operand, mul_latency=self._mul_latency),
            "key_fetch": RowFetch(sizes),
            "value_fetch": RowFetch(sizes),
            "port": ReadPort(clients=3, beat_bytes=sizes.beat_bytes, depth=max(16, sizes.reads_in_flight)),
            "places": RowTable(RowPlace(), slots=sizes.rows_in_flight, ports=6),
            "inverses": RowTable(Inverse(), slots=sizes.rows_in_flight, ports=2),
            "counts": RowTable(INDEX_BITS, slots=sizes.rows_in_flight, ports=1),
        }
        for name, part in parts.items():
            m.submodules[name] = part
            setattr(self, f"_{name}", part)
        self._ports = 0
        self._memory(m)
        self._job(m)
        self._rows(m)
        self._hold(m)
        self._keys(m)
        self._exponentials(m)
        self._values(m)
        self._counters(m)
        return m

    def _memory(self, m: Module) -> None:
        """Value fetch first, then key fetch, then descriptors."""
        port = self._port
        for number, part in enumerate((self._value_fetch, self._key_fetch, self._reader)):
            wiring.connect(m, part.request, getattr(port, f"client_request_{number}"))
            wiring.connect(m, getattr(port, f"client_data_{number}"), part.data)
        wiring.connect(m, port.request, wiring.flipped(self.request))
        wiring.connect(m, wiring.flipped(self.data), port.data)

    def _job(self, m: Module) -> None:
        """A job begins, and ends when nothing of it is left."""
        reader, ended, quiet = self._reader, Signal(), Signal(range(4))
        wiring.connect(m, wiring.flipped(self.command), reader.command)
        running = Signal()
        stages = (self._score_stage, self._finish, self._value_stage, self._results)
        for part in (self._issue, self._loader, self._passes, *stages):
            m.d.comb += part.job.eq(reader.job)
        living = self.alive & ((1 << reader.job.heads) - 1)
        m.d.comb += [
            self._issue.start.eq(reader.start),
            self._finish.start.eq(reader.start & reader.job.importance & living.any()),
            ended.eq(
                running
                & ~self._issue.o.valid
                & (self._passes.free == (1 << self._sizes.rows_in_flight) - 1)
                & ~self._finish.busy
                & ~self._results.busy
            ),
            self.done.eq(quiet == 3),
            reader.finished.eq(self.done),
            self.error.eq(reader.error),
            self.busy.eq(reader.busy),
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
        """Heads that are held: loaded through the fetches, read from the buffers."""
        job, loader, passes, values = self._reader.job, self._loader, self._passes, self._value_stage
        m.d.comb += [
            *(loader.start.eq(self._reader.start), loader.alive.eq(self.alive)),
            *(loader.words.eq(self._reader.words), loader.halves.eq(self._reader.halves)),
            *(passes.words.eq(self._reader.words), values.words.eq(self._reader.words)),
            *(self._issue.halves.eq(self._reader.halves), passes.ready.eq(loader.ready), loader.used.eq(passes.used)),
            *(loader.at.eq(self._issue.o.payload.kv_head), loader.at_valid.eq(self._issue.o.valid)),
        ]
        wiring.connect(m, loader.keys, passes.load)
        buffers = (self._key_buffer, loader.key_load), (self._value_buffer, loader.value_load)
        for number, (buffer, load) in enumerate(buffers):
            loads = Queue(shape=load.payload.shape(), depth=2)
            m.submodules[f"loads_{number}"] = loads
            wiring.connect(m, load, loads.i)
            wiring.connect(m, loads.o, buffer.load)
            m.d.comb += [buffer.bypass.eq(~job.hold), loader.loaded[number].eq(buffer.loaded)]
        fetch, buffer, hold = self._value_fetch, self._value_buffer, job.hold
        for target, held, fetched in ((fetch.command, loader.values, values.fetch),):
            m.d.comb += [
                target.payload.eq(Mux(hold, held.payload, fetched.payload)),
                target.valid.eq(Mux(hold, held.valid, fetched.valid)),
                *(held.ready.eq(target.ready & hold), fetched.ready.eq(target.ready & ~hold)),
            ]
        for target, wanted in ((fetch.indices, ~hold), (buffer.indices, hold)):
            m.d.comb += [target.payload.eq(values.indices.payload), target.valid.eq(values.indices.valid & wanted)]
        m.d.comb += values.indices.ready.eq(Mux(hold, buffer.indices.ready, fetch.indices.ready))

    def _keys(self, m: Module) -> None:
        """Queries and keys to products, scores to their buffers, and how many of them are seen."""
        passes, products, scores, fetch = self._passes, self._products, self._scores, self._key_fetch
        word, reader, buffer = fetch.o, self._reader, self._key_buffer
        wiring.connect(m, passes.fetch, fetch.command)
        wiring.connect(m, passes.products, products.command)
        wiring.connect(m, passes.held, buffer.read)
        wiring.connect(m, buffer.o, products.i)
        m.d.comb += [
            products.query.payload.eq(word.payload),
            products.query.valid.eq(word.valid & word.payload.query),
            products.query_buffer.eq(passes.query_slot),
            passes.query_next.eq(products.query.valid & word.payload.last),
            buffer.i.payload.eq(word.payload),
            buffer.i.valid.eq(word.valid & ~word.payload.query),
            word.ready.eq(word.payload.query | buffer.i.ready),
            reader.index.eq(products.i.payload.index),
            products.mask.eq(reader.mask),
            *(scores.write.eq(products.o), scores.write_buffer.eq(products.o_buffer)),
            scores.write_valid.eq(products.o_valid),
            *(scores.old_index.eq(products.old_index), scores.old_buffer.eq(products.old_buffer)),
            *(scores.old_valid.eq(products.old_valid), products.old.eq(scores.old)),
        ]
        count, total = Signal(INDEX_BITS), Signal(INDEX_BITS)
        seen = products.o.write & products.o.seen
        m.d.comb += [
            total.eq(count + sum(seen[row] for row in range(len(seen)))),
            self._counts.write_slot.eq(products.o_buffer),
            self._counts.write_data.eq(total),
            self._counts.write_enable.eq(products.o_valid & products.o.last),
        ]
        with m.If(products.o_valid):
            m.d.sync += count.eq(Mux(products.o.last, 0, total))

    def _exponentials(self, m: Module) -> None:
        """Softmax, and e of every row in a memory for importance and selection and in one for weights."""
        stage, scores, finish = self._score_stage, self._scores, self._finish
        sizes, width = self._sizes, EXP_BITS * self._sizes.softmax_lanes
        m.d.comb += [
            *(stage.taken.eq(self._passes.taken), stage.taken_slot.eq(self._passes.taken_slot)),
            *(stage.result.eq(self._products.result), stage.result_valid.eq(self._products.result_valid)),
            stage.place.eq(self._look_up(m, stage.slot)),
            self._reader.record_head_0.eq(stage.record_head),
            stage.record.eq(self._reader.record_0),
            *(scores.address.eq(stage.address), scores.buffer.eq(stage.buffer), stage.scores.eq(scores.o)),
            self._inverses.write_slot.eq(stage.inverse_slot),
            self._inverses.write_data.eq(stage.inverse),
            self._inverses.write_enable.eq(stage.inverse_write),
            finish.place.eq(self._look_up(m, finish.slot)),
            self._counts.slot_0.eq(finish.slot),
            finish.seen.eq(self._counts.entry_0),
            self._inverses.slot_0.eq(finish.word_slot),
            finish.inverse.eq(self._inverses.entry_0),
            finish.rows.payload.eq(stage.final.payload),
            finish.rows.valid.eq(stage.final.valid & (job_prunes(stage.job) | stage.job.importance)),
        ]
        for name in ("token_address", "token_write_address", "token_write_data", "token_write_enable"):
            m.d.comb += getattr(finish, name).eq(getattr(self, name))
        m.d.comb += self.token_data.eq(finish.token_data)
        for name, user in (("e", finish), ("weights_e", self._value_stage)):
            memory = Ram(width=width, depth=sizes.rows_in_flight * row_words(sizes))
            m.submodules[name] = memory
            m.d.comb += [
                memory.write_enable.eq(stage.e_write),
                memory.write_address.eq(stage.e_address),
                memory.write_data.eq(stage.e_data),
                memory.read_address.eq(user.e_address),
                user.e_bits.eq(memory.read_data),
            ]

    def _values(self, m: Module) -> None:
        """Values, their weights, sums, and when slots are free."""
        stage, results, finish, weighted = self._value_stage, self._results, self._finish, self._weighted
        score_stage, fetch = self._score_stage, self._value_fetch
        for name in ("certain", "final"):
            source, target = getattr(score_stage, name), getattr(stage, "rows" if name == "final" else name)
            m.d.comb += [target.payload.eq(source.payload), target.valid.eq(source.valid)]
        wiring.connect(m, finish.kept, stage.kept)
        wiring.connect(m, fetch.o, self._value_buffer.i)
        wiring.connect(m, self._value_buffer.o, weighted.i)
        wiring.connect(m, stage.held, self._value_buffer.read)
        wiring.connect(m, stage.command, weighted.command)
        wiring.connect(m, stage.weights, weighted.weights)
        wiring.connect(m, weighted.o, results.sums)
        wiring.connect(m, results.request, wiring.flipped(self.write_request))
        wiring.connect(m, results.data, wiring.flipped(self.write_data))
        m.d.comb += [
            stage.refined.eq(score_stage.refined),
            stage.fetch_place.eq(self._look_up(m, stage.fetch_slot)),
            stage.place.eq(self._look_up(m, stage.slot)),
            *(results.begins.eq(stage.begins), stage.may_begin.eq(results.may_begin)),
            *(results.begin_slot.eq(stage.slot), results.begin_place.eq(stage.place)),
            *(results.empty.payload.eq(score_stage.empty.payload), results.empty.valid.eq(score_stage.empty.valid)),
            results.empty_place.eq(self._look_up(m, results.empty_slot)),
            *(self._inverses.slot_1.eq(results.slot), results.inverse.eq(self._inverses.entry_1)),
            self._reader.record_head_1.eq(results.record_head),
            results.record.eq(self._reader.record_1),
            *(self.heads.eq(results.heads), results.heads_clear.eq(self.heads_clear)),
        ]
        self._release(m)

    def _release(self, m: Module) -> None:
        """A slot is free when its sums have left and all words of its e have been read."""
        finish, results = self._finish, self._results
        for slot in range(self._sizes.rows_in_flight):
            reading, summed = Signal(name=f"reading_{slot}"), Signal(name=f"summed_{slot}")
            read, left = finish.read & (finish.word_slot == slot), results.row_done & (results.slot == slot)
            with m.If(finish.rows.valid & (finish.rows.payload == slot)):
                m.d.sync += reading.eq(1)
            with m.If(read):
                m.d.sync += reading.eq(0)
            ends = (summed | left) & (read | ~reading)
            m.d.sync += summed.eq((summed | left) & ~ends)
            m.d.comb += self._passes.release[slot].eq(ends | (results.empty_done & (results.empty_slot == slot)))

    def _counters(self, m: Module) -> None:
        """What a job takes, from its command on."""
        begins = self.command.valid & self.command.ready
        counted = {
            "cycles": self.busy,
            "products_busy": self._products.i.valid & self._products.i.ready,
            "read_beats": self._port.beats,
            "write_beats": self.write_data.valid & self.write_data.ready,
        }
        for name, event in counted.items():
            counter = getattr(self, name)
            with m.If(begins):
                m.d.sync += counter.eq(0)
            with m.Elif(event):
                m.d.sync += counter.eq(counter + 1)
