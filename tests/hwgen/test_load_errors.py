"""Load engine: what it does when an instruction is bad, memory answers with an error, or another engine stops."""

import pytest

from hwgen.arch import load as load_arch
from hwgen.arch.commands import command
from hwgen.arch.isa import Cause, Opcode, Target, load_opcode
from hwgen.memory.faults import FaultReporter
from tests.hwgen.load_support import apply, expected, load, run
from tests.support import AxiMemory, at_random, long, never, simulate, wide_arch


def bad_loads(arch):
    """Name -> (cause, beats that are written, fields that break a rule)."""
    size, act, wgt = arch.beat_bytes, arch.scratchpads.act_depth, arch.scratchpads.wgt_depth
    acc, end = arch.scratchpads.acc_depth, 1 << arch.memory.address_bits
    field, word, align = Cause.BAD_FIELD, Cause.SCRATCHPAD_RANGE, Cause.MEMORY_ALIGNMENT
    return {
        "no beats": (field, 0, {"target": Target.WGT, "rows": 4}),
        "half a word": (field, 0, {"target": Target.ACC32, "beats": 3, "pad": 2}),
        "index address": (field, 0, {"target": Target.IDX, "beats": 1, "addr": 1}),
        "index stride": (field, 0, {"target": Target.IDX, "beats": 1, "stride": 3}),
        "too many beats": (field, 0, {"target": Target.WGT, "beats": 2**15, "planes": 2}),
        "far too many beats": (field, 0, {"target": Target.WGT, "beats": 2**15, "planes": 2**15}),
        "too much padding": (field, 0, {"target": Target.WGT, "beats": 3, "planes": 2, "pad": 2**16 - 6}),
        "half a word in planes": (field, 0, {"target": Target.ACC32, "beats": 3, "planes": 3}),
        "packed beats": (field, 0, {"target": Target.PACKED, "beats": 4, "planes": 2, "pad": 3}),
        "odd plane stride": (align, 0, {"target": Target.WGT, "beats": 1, "plane_stride": size + 1}),
        "later plane": (align, 2, {"target": Target.WGT, "beats": 1, "planes": 3, "dram_addr": end - 512,
                                   "plane_stride": 256}),
        "columns": (word, arch.array.lanes, {"target": Target.COLS, "beats": 9, "stride": 9, "addr": wgt - 1}),
        "column blocks": (word, 2, {"target": Target.COLS, "rows": 3, "beats": 1, "addr": wgt - 2}),
        "packed": (word, arch.array.lanes, {"target": Target.PACKED, "beats": 5, "stride": 2, "addr": wgt - 2}),
        "odd address": (align, 0, {"target": Target.WGT, "beats": 1, "dram_addr": size // 2}),
        "odd stride": (align, 0, {"target": Target.WGT, "beats": 1, "row_stride": size + 1}),
        "first address": (align, 0, {"target": Target.WGT, "beats": 1, "dram_addr": end}),
        "later row": (align, 2, {"target": Target.WGT, "beats": 2, "rows": 2, "dram_addr": end - 512,
                                "row_stride": 512}),
        "end of row": (align, 2, {"target": Target.ACC16, "beats": 4, "dram_addr": end - 2 * size}),
        "act rows": (word, 3, {"target": Target.ACT_ROWS, "beats": 5, "addr": act - 3}),
        "act chunks": (word, 2 * size // 2, {"target": Target.ACT_CHUNKS, "rows": 9, "beats": 2, "chunk_log2": 1,
                                             "addr": act - 2}),
        "weights": (word, 2 * arch.array.lanes, {"target": Target.WGT, "beats": 16, "addr": wgt - 2}),
        "indices": (word, 1, {"target": Target.IDX, "beats": 2, "addr": wgt - 4 // arch.array.lanes}),
        "sums": (word, 4, {"target": Target.ACC32, "beats": 4, "rows": 2, "stride": 2, "addr": acc - 2}),
        "curve": (word, 2, {"target": Target.CURVE, "beats": 3, "addr": arch.vector.curve_entries - 2}),
        "wide stride": (word, 1, {"target": Target.ACC16, "beats": 1, "rows": 9, "stride": 2**20 - 1}),
    }  # fmt: skip


@pytest.mark.parametrize("preset", ["tiny", "tiny2"])
@pytest.mark.parametrize("name", bad_loads(load_arch("tiny")))
def test_errors(preset, name):
    arch = load_arch(preset)
    cause, written, fields = bad_loads(arch)[name]
    opcode = load_opcode(arch, fields["target"])
    good = load(arch, Target.ACC16 if opcode == Opcode.FILL else Target.WGT, rows=3, beats=4, stride=4)
    commands = [good, command(opcode, **fields), good]
    bench, _, taken = run(arch, commands, stalls=at_random(5))
    assert [(found, pc) for _, found, pc in bench.errors] == [(cause, 1)]
    assert len(bench.done) == 1
    assert len(taken) == 12 + written


def test_rounds_of_banks_need_whole_beats():
    """Two banks of one value each take less than a beat; eight columns need chunks of four."""
    arch = wide_arch()
    for chunk_log2, causes in ((1, [Cause.BAD_FIELD]), (2, [])):
        bad = load(arch, Target.ACT_CHUNKS, chunk_log2=chunk_log2, beats=1, stride=1)
        bench, _, _ = run(arch, [bad])
        assert [cause for _, cause, _ in bench.errors] == causes


def test_a_late_stop_keeps_the_engine_halted():
    """Between its error and `stop` an engine that is already drained must not start the next command."""
    reporter = FaultReporter()

    async def bench(ctx):
        ctx.set(reporter.drained, 1)
        for fault, stop, halt in [(0, 0, 0), (1, 0, 0), (0, 0, 1), (0, 0, 1), (0, 1, 1), (0, 0, 1), (0, 0, 0)]:
            ctx.set(reporter.fault, fault)
            ctx.set(reporter.stop, stop)
            assert ctx.get(reporter.halt) == halt
            await ctx.tick()

    simulate(reporter, bench)


@pytest.mark.parametrize("stalls", [never, at_random(6)])
def test_read_response_stops_before_the_bad_beat(stalls):
    arch = load_arch("tiny")
    memory = AxiMemory(arch)
    memory.bad_reads = {(512 + 21) * 8}
    commands = [load(arch, Target.WGT, rows=1, beats=40, at=512 * index) for index in range(4)]
    bench, memory, taken = run(arch, commands, memory=memory, stalls=stalls)
    assert [(cause, pc) for _, cause, pc in bench.errors] == [(Cause.READ_RESPONSE, 1)]
    assert len(taken) == 40 + 21
    assert len(bench.done) == 1


@pytest.mark.parametrize("sink", [never, long(30)])
@pytest.mark.parametrize("when", [2, 3, 4, 8, 20, 55])
def test_stop_drains_and_the_engine_works_again(sink, when):
    arch = load_arch("tiny")
    commands = [load(arch, Target.WGT, addr=40 * index, rows=1, beats=40, at=512 * index) for index in range(3)]

    def drive(bench):
        async def stop(ctx):
            await bench.run(ctx, commands, stop_at=when)
            stopped.extend([len(memory.bursts), len(bench.done)])
            await bench.run(ctx, commands)

        return stop

    stopped, memory = [], AxiMemory(arch)
    bench, memory, taken = run(arch, commands, memory=memory, drive=drive, sink=sink)
    assert not bench.errors
    assert len(bench.done) == stopped[1] + 3
    assert all(cycle <= when + 1 for cycle, *_ in memory.bursts[: stopped[0]]), "requests go on after stop"
    found, wanted = {}, {}
    for _, beat in taken[-120:]:
        apply(arch, beat, found)
    for item in commands:
        expected(arch, memory, item, wanted)
    assert found == wanted
