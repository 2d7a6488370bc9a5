"""Store engine: what it does when an instruction is bad, memory answers with an error, or another engine stops."""

import pytest

from hwgen.arch.isa import Cause, Format
from tests.hwgen.store_support import PATHS, check, expected, quick, random_words, run, store
from tests.support import AxiMemory, at_random, long, never


def bad_stores(arch):
    """Name -> (cause, beats that are written, fields that break a rule)."""
    size, acc, end = arch.beat_bytes, arch.scratchpads.acc_depth, 1 << arch.memory.address_bits
    field, word, align = Cause.BAD_FIELD, Cause.SCRATCHPAD_RANGE, Cause.MEMORY_ALIGNMENT
    return {
        "lanes": (field, 0, {"lanes": 5}),
        "transposed sums": (field, 0, {"transpose": 1, "rows": 4}),
        "operands of 3 rows": (field, 0, {"format": 1, "transpose": 1, "rows": 3}),
        "operands of 8 rows": (field, 0, {"format": 1, "transpose": 1, "rows": 8}),
        "dense of 6 rows": (field, 0, {"format": 2, "transpose": 1, "rows": 6}),
        "packed of 6 rows": (field, 0, {"format": 3, "transpose": 1, "rows": 6, "n": 1, "m": 2}),
        "none of 4": (field, 0, {"format": 3, "rows": 4, "m": 4}),
        "5 of 4": (field, 0, {"format": 3, "rows": 4, "n": 5, "m": 4}),
        "1 of none": (field, 0, {"format": 3, "rows": 4, "n": 1}),
        "a group too large": (field, 0, {"format": 3, "rows": 8, "n": 1, "m": 8}),
        "part of a group": (field, 0, {"format": 3, "rows": 7, "n": 1, "m": 4}),
        "part of a transposed group": (field, 0, {"format": 3, "transpose": 1, "rows": 4, "n": 1, "m": 3}),
        "part of a group out of range": (field, 0, {"format": 3, "rows": 7, "n": 1, "m": 4, "addr": acc}),
        "packed out of range": (word, 0, {"format": 3, "rows": 8, "n": 1, "m": 4, "addr": acc - 7, "stride": 1}),
        "later column": (align, 2, {"format": 1, "transpose": 1, "rows": 4, "dram_addr": end - 512, "row_stride": 256}),
        "odd address": (align, 0, {"dram_addr": size // 2}),
        "odd stride": (align, 0, {"row_stride": size + 1}),
        "first address": (align, 0, {"dram_addr": end}),
        "later row": (align, 3, {"words": 3, "format": 1, "rows": 2, "dram_addr": end - 512, "row_stride": 512}),
        "end of row": (align, 2, {"words": 3, "dram_addr": end - 2 * size}),
        "first word": (word, 0, {"addr": acc}),
        "last word": (word, 0, {"addr": acc - 7, "rows": 2, "words": 4, "stride": 4}),
        "far row": (word, 0, {"rows": 65535, "stride": 2**20 - 1}),
        "last plane": (word, 0, {"addr": acc - 7, "words": 4, "planes": 2}),
        "far plane": (word, 0, {"words": 65535, "planes": 65535}),
        "odd plane stride": (align, 0, {"planes": 2, "plane_stride": -size // 2}),
        "later plane": (align, 6, {"words": 3, "planes": 2, "dram_addr": end - 512, "plane_stride": 512}),
        "plane below 0": (align, 12, {"words": 3, "planes": 3, "dram_addr": 256, "plane_stride": -256}),
    }


@pytest.mark.parametrize("preset", ["tiny", "tiny2"])
@pytest.mark.parametrize("name", bad_stores(quick("tiny")))
def test_errors(preset, name):
    arch = quick(preset)
    cause, written, fields = bad_stores(arch)[name]
    good, bad = (store(arch, Format.FP32, rows=2, words=3, stride=3) for _ in range(2))
    bad.operands.update(dict.fromkeys(bad.operands, 0) | {"rows": 1, "words": 1, "planes": 1, "lanes": 4} | fields)
    bench, memory, _ = run(arch, [good, bad, good], random_words(arch, 1, 20), stalls=at_random(5))
    assert [(found, pc) for _, found, pc in bench.errors] == [(cause, 1)]
    assert len(bench.done) == 1
    assert len(memory.data_cycles) == 12 + written


def test_last_word_and_last_address_are_usable():
    arch = quick("tiny2")
    depth, at = arch.scratchpads.acc_depth, 2**32 // 8 - 6
    check(arch, [store(arch, Format.FP32, addr=depth - 3, words=3, at=at)], random_words(arch, 1, depth))


@pytest.mark.parametrize("stalls", [never, at_random(6)])
def test_write_response_stops_the_run(stalls):
    arch = quick("tiny")
    memory = AxiMemory(arch)
    memory.bad_writes = {(512 + 17) * 8}
    commands = [store(arch, Format.OPERAND, words=40, at=512 * index) for index in range(12)]
    bench, memory, _ = run(arch, commands, random_words(arch, 1, 40), memory=memory, stalls=stalls)
    assert [(cause, pc) for _, cause, pc in bench.errors] == [(Cause.WRITE_RESPONSE, 1)]
    assert len(bench.done) == 1
    assert len(memory.bursts) < 36
    assert len(memory.data_cycles) == sum(length for *_, length in memory.bursts)


@pytest.mark.parametrize("stalls", [never, long(30)])
@pytest.mark.parametrize("when", [2, 3, 4, 5, 8, 20, 30, 55])
@pytest.mark.parametrize("path", ["fp32", "packed transposed"])
def test_stop_completes_announced_bursts_and_the_engine_works_again(stalls, when, path):
    arch = quick("tiny")
    words, shape = random_words(arch, 1, 64), PATHS[path] | {"rows": 4, "words": 7, "stride": 8}
    commands = [store(arch, at=512 * index + 511, **shape) for index in range(3)]
    again = [store(arch, at=512 * index + 3000, **shape) for index in range(3)]
    stopped: list[int] = []

    def drive(bench):
        async def stop(ctx):
            await bench.run(ctx, commands, stop_at=when)
            stopped.extend([len(memory.bursts), len(memory.data_cycles), len(bench.done)])
            await bench.run(ctx, again)

        return stop

    memory = AxiMemory(arch)
    bench, memory, _ = run(arch, commands, words, memory=memory, drive=drive, stalls=stalls)
    wanted: dict[int, int] = {}
    for item in again:
        expected(arch, item, words, wanted)
    assert {place: memory.beats[place] for place in wanted} == wanted
    assert stopped[1] == sum(length for *_, length in memory.bursts[: stopped[0]])
    assert len(bench.done) == stopped[2] + 3
    assert not bench.errors
