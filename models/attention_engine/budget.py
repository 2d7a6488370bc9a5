"""A budget of cycles: rows through the stages of the engine, each a resource that works on one row at a time.

An estimate that says which stage binds and how much room the parts have; the cycles of a run are those of the hardware.
`python -m models.attention_engine.budget --trace TRACE.csv --iteration 5` reads the published traces,
`--encoder HEADS LENGTH HEAD_SIZE KEPT` takes a layer in which all tokens attend to all.
"""

import argparse
import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hwgen.arch.attention import LOW_BITS, AttentionSizes

MEMORY_LATENCY = 40
CHANNEL_BYTES = 64


@dataclass(frozen=True, kw_only=True)
class WideSizes(AttentionSizes):
    """Sizes of an engine that is not built: values have more than one top-k engine, to which rows come in turns."""

    selectors: int = 2


FULL_SIZE = WideSizes(
    multipliers=512,
    beat_bytes=512,
    softmax_lanes=32,
    output_lanes=8,
    rows_in_flight=16,
    reads_in_flight=64,
)


@dataclass(frozen=True)
class Latency:
    """Cycles from the first input of a stage to its first output, or to its result."""

    start: int = 50
    """Descriptor of the first job."""
    products: int = 12
    """Word of keys to score; word of values to sum."""
    softmax: int = 14
    """Word of scores to word of e."""
    decide: int = 25
    """Last word of scores to the sum of the row."""
    select: int = 12
    """Of the selection, beside its passes, which come to about three times the words of a row."""
    marks: int = 6
    """Decision of the selection to the first row that is fetched."""
    output: int = 24
    """Sum to the last beat of outputs."""
    switch: int = 2
    """Between two rows in one stage."""


@dataclass(frozen=True)
class Row:
    """Keys seen, values kept, bits of the planes; `low`: LSBs of all keys are used; `held`: both are on chip."""

    head_size: int
    keys: int
    values: int
    key_bits: int
    value_bits: int
    low: bool
    held: bool = False


def encoder(heads: int, length: int, head_size: int, kept: int) -> list[Row]:
    """Rows of a layer that holds keys and values of 6 bits, no LSBs."""
    return [Row(head_size, length, kept, 6, 6, False, held=True)] * (heads * length)


def _beats(rows: int, size: int, sizes: AttentionSizes, share: float = 1) -> int:
    """Cycles of memory for `rows` rows spread evenly over rows / share; wide memories are channels of CHANNEL_BYTES."""
    channel = min(CHANNEL_BYTES, sizes.beat_bytes)
    beats = rows / share * size / channel
    # A beat holds parts of channel / size rows and of the rows at its ends, whose places are multiples of 16 bytes.
    touched = 1 - (1 - share) ** (channel / size + 1 - 16 / size) if share < 1 else 1
    return math.ceil(beats * touched * channel / sizes.beat_bytes)


class Timeline:
    """Stages that take rows in turn, and a memory that serves whoever asks in the cycles that are still free."""

    def __init__(self, start: int, switch: int) -> None:
        self._free = dict.fromkeys(("keys", "softmax", "select", "values"), start)
        self._switch = switch
        self._taken = bytearray(start)
        self.busy = dict.fromkeys(("bus", *self._free), 0)

    def work(self, stage: str, ready: int, cycles: int) -> int:
        """The first cycle in which `stage` works on a row that is ready then or earlier."""
        begin = max(self._free[stage], ready)
        self._free[stage] = begin + cycles + self._switch
        self.busy[stage] += cycles
        return begin

    def read(self, ready: int, beats: int) -> tuple[int, int]:
        """Cycles in which the first and the last of `beats` beats arrive that are asked for from cycle `ready` on."""
        self.busy["bus"] += beats
        cycle, first, left = ready, None, beats
        while left:
            if cycle >= len(self._taken):
                self._taken.extend(bytes(cycle - len(self._taken) + left))
            if not self._taken[cycle]:
                self._taken[cycle], left = 1, left - 1
                first = cycle if first is None else first
            cycle += 1
        return first + MEMORY_LATENCY, cycle - 1 + MEMORY_LATENCY

    def next(self, stage: str) -> int:
        """When `stage` can take its next row."""
        return self._free[stage]


class _Run:
    """Rows on a timeline."""

    def __init__(self, first: Row, sizes: AttentionSizes, latency: Latency) -> None:
        self.sizes, self.latency = sizes, latency
        self.selectors = sizes.selectors if isinstance(sizes, WideSizes) else 1
        self.line, self.end, self._loaded = Timeline(latency.start, latency.switch), 0, latency.start
        if first.held:
            # Other heads are loaded while one is worked on.
            beats = _beats(2 * first.keys, first.head_size * first.key_bits // 8, sizes)
            self._loaded = self.line.read(latency.start, beats)[1]

    def products(self, row: Row, bits: int, ready: int = 0) -> int:
        """All scores of a row are known. Keys are asked for ahead of their turn, as far as reads in flight reach."""
        line, words = self.line, self.sizes.words(row.head_size, row.keys)
        if row.held:
            return line.work("keys", max(ready, self._loaded), words) + words + self.latency.products
        asked = max(self.latency.start, ready, line.next("keys") - self.sizes.reads_in_flight)
        first, last = line.read(asked, _beats(row.keys, row.head_size * bits // 8, self.sizes))
        begin = line.work("keys", first, max(words, last - max(first, line.next("keys")) + 1))
        return max(begin + words, last + 1) + self.latency.products

    def finish(self, row: Row, scored: int) -> None:
        """Softmax, selection and values of a row whose scores are known."""
        line, words, share = self.line, -(-row.keys // self.sizes.softmax_lanes), row.values / row.keys
        ready = line.work("softmax", scored, words) + self.latency.softmax
        if share < 1:
            search = 3 * words + self.latency.select
            ready = line.work("select", ready, -(-search // self.selectors)) + search + self.latency.marks
        first = last = values = 0
        if row.held:
            # At worst every word holds a kept value.
            kept = row.values * self.sizes.words_per_row(row.head_size)
            values = min(self.sizes.words(row.head_size, row.keys), kept)
        else:
            asked = ready - (self.sizes.reads_in_flight if share == 1 else 0)
            size = row.head_size * row.value_bits // 8
            first, last = line.read(asked, _beats(row.values, size, self.sizes, share))
            values = self.sizes.words(row.head_size, row.values)
        done = max(line.work("values", max(ready, first), values) + values, last + 1)
        self.end = max(self.end, done + self.latency.products + self.latency.output)

    def decided(self, row: Row, scored: int) -> int:
        """It is known that the row needs LSBs, after a softmax that was not confident."""
        words = -(-row.keys // self.sizes.softmax_lanes)
        return self.line.work("softmax", scored, words) + words + self.latency.decide


def budget(rows: Sequence[Row], sizes: AttentionSizes, latency: Latency = Latency()) -> dict[str, int]:
    """Cycles in all, and cycles in which each stage works. LSBs of a row are fetched behind the MSBs of the next."""
    run = _Run(rows[0], sizes, latency)
    waiting: list[tuple[Row, int]] = []

    def finish_waiting() -> None:
        while waiting:
            row, decided = waiting.pop()
            run.finish(row, run.products(row, LOW_BITS, decided))

    for row in rows:
        scored = run.products(row, row.key_bits)
        decided = run.decided(row, scored) if row.low else 0
        finish_waiting()
        if row.low:
            waiting.append((row, decided))
        else:
            run.finish(row, scored)
    finish_waiting()
    return {"cycles": run.end, **run.line.busy}


def read_trace(path: str, iteration: int | None = None) -> list[Row]:
    """Rows of a published trace: one query of one head a line; bits of -1 are 10."""
    with open(path, newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["layer_id"]]
    chosen = (line for line in lines if iteration is None or int(line["iteration_id"]) == iteration)

    def number(line: dict[str, str], name: str, default: int) -> int:
        return default if int(line[name]) < 0 else int(line[name])

    return [
        Row(
            head_size=int(float(line["embedding_length_D"])),
            keys=int(line["key_fetch_num"]),
            values=int(line["value_fetch_num"]),
            key_bits=number(line, "quant_key_bit", 10),
            value_bits=number(line, "quant_value_bit", 10),
            low=line["if_requant"] == "True",
        )
        for line in chosen
    ]


def main(arguments: Iterable[str] | None = None) -> None:
    """Print the budget of a workload at both published sizes."""
    parser = argparse.ArgumentParser(prog="python -m models.attention_engine.budget")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--trace", help="file of the published traces")
    source.add_argument("--encoder", type=int, nargs=4, metavar=("HEADS", "LENGTH", "HEAD_SIZE", "KEPT"))
    parser.add_argument("--iteration", type=int, help="rows of this iteration of the trace only")
    options = parser.parse_args(arguments)
    rows = encoder(*options.encoder) if options.encoder else read_trace(options.trace, options.iteration)
    for sizes in (AttentionSizes(), FULL_SIZE):
        figures = ", ".join(f"{name} {value:,.0f}" for name, value in budget(rows, sizes).items())
        print(f"{len(rows)} rows, {sizes.multipliers} + {sizes.multipliers} multipliers: {figures}")


if __name__ == "__main__":
    main()
