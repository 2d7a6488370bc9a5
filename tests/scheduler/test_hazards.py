"""Declared accesses -> dependencies, against a comparison of every pair; and whole programs on a shadow memory."""

import dataclasses
import itertools
import random

import pytest

from hwgen.arch import load
from hwgen.arch.commands import command
from hwgen.arch.isa import Dataflow, Engine, Opcode
from models.accesses import memory_rows, scratchpad_accesses
from scheduler.hazards import SPACES, Recorder, Region
from scheduler.lower import compile_graph, lower
from scheduler.scratchpad import Accumulators, Pool
from tests.scheduler.support import captured, options, variant
from tests.scheduler.test_tokens import replay

ITEMS = [command(opcode) for opcode in Opcode]


def test_dependencies_equal_a_comparison_of_all_pairs(seed):
    rng = random.Random(seed)
    for _ in range(30):
        recorder, accesses = Recorder(), []
        for _ in range(40):
            regions = [[], []]
            for kind in regions:
                for _ in range(rng.randint(0, 2)):
                    start = rng.randrange(30)
                    kind.append(Region(rng.choice(SPACES[:2]), start, start + rng.randint(1, 8)))
            item = rng.choice(ITEMS)
            recorder.add(item, reads=regions[0], writes=regions[1])
            accesses.append((item.engine, *regions))
        items = recorder.finish(15)
        before = replay([item.engine for item in items], [(i.wait, i.signal) for i in items], 15, random.Random(seed))
        for later, (engine, reads, writes) in enumerate(accesses):
            for earlier, (other, other_reads, other_writes) in enumerate(accesses[:later]):
                clash = _meet(reads + writes, other_writes) or _meet(writes, other_reads)
                assert not (clash and other != engine) or earlier in before[later], (earlier, later)


def _meet(left, right):
    return any(a.space == b.space and a.start < b.stop and b.start < a.stop for a in left for b in right)


@pytest.mark.parametrize("banks", [2, 4, 8])
def test_result_slots_are_apart_and_addends_in_other_banks(banks):
    arch = variant("tiny", scratchpads={"acc_banks": banks})
    state = lower(captured("residual_mlp", batch=19, hidden=12)[2], arch)
    layer = state.layers[2]
    plan = state.plans[layer.name]
    places = Accumulators(arch)
    places.begin(plan, layer)
    slots = [places.result(number) for number in range(plan.out_slots)]
    starts = sorted(start for start, _ in slots)
    assert all(low + plan.out_words <= high for low, high in itertools.pairwise(starts))
    for start, half in slots:
        for pool in (places.addends[half], places.biases[half]):
            address, _ = pool.get("content")
            assert address // (1024 // banks) != start // (1024 // banks)


def test_results_have_banks_of_their_own_and_layers_other_words_for_what_they_add():
    state = lower(captured("mlp", batch=40)[2], variant("tiny", scratchpads={"acc_banks": 8}))
    places, before = Accumulators(state.arch), set()
    for layer in state.layers:
        plan = state.plans[layer.name]
        places.begin(plan, layer)
        assert plan.out_slots == 4
        assert len({places.result(number)[0] // (1024 // 8) for number in range(4)}) == 4
        starts = [pool.get(layer.name)[0] for pool in places.biases]
        words = {start + word for start in starts for word in range(plan.tile_cols)}
        assert not words & before
        before = words


def test_a_pool_keeps_what_was_used_last():
    pool = Pool(8, 4, 2)
    assert [pool.get(content) for content in "abacab"] == [
        (8, False),
        (12, False),
        (8, True),
        (12, False),
        (8, True),
        (12, False),
    ]


def test_independent_regions_need_no_token():
    recorder = Recorder()
    recorder.add(command(Opcode.LOAD), writes=[Region("act", 0, 8)])
    recorder.add(command(Opcode.TENSOR), reads=[Region("act", 8, 16), Region("wgt", 0, 8)])
    assert all(item.wait == item.signal == 0 for item in recorder.finish(15))


class Shadow:
    """Who wrote each word last, and which words are being written; words are numbers of `models.accesses`."""

    def __init__(self, program):
        self.reads, self.writes = [], []
        for item in program.commands:
            found = {True: set(), False: set()}
            for access in scratchpad_accesses(item, program.arch):
                found[access.writes] |= {(access.memory, int(word)) for word in access.words}
            rows = memory_rows(item, program.arch)
            if rows is not None:
                beats = range(0, rows.size, program.arch.beat_bytes)
                found[rows.writes] |= {("dram", int(start) + beat) for start in rows.starts() for beat in beats}
            self.reads.append(found[False])
            self.writes.append(found[True])

    def expected(self):
        """For every instruction the writer of each word it reads, in program order."""
        writer, expected = {}, []
        for number, words in enumerate(self.reads):
            expected.append({word: writer.get(word) for word in words})
            writer |= dict.fromkeys(self.writes[number], number)
        return expected


def check_interleaving(program, rng):
    """Run on the shadow memory with random engine speeds; each read must always see what program order gives."""
    shadow, engines = Shadow(program), [item.engine for item in program.commands]
    expected, writer, busy = shadow.expected(), {}, {}
    tokens = dict.fromkeys([(a, b) for a in Engine for b in Engine], 0)
    queues = {engine: [i for i, owner in enumerate(engines) if owner == engine] for engine in Engine}
    running, limit = {}, (1 << program.arch.control.token_bits) - 1
    weights = {engine: rng.choice([1, 10, 100]) for engine in Engine}
    while any(queues.values()) or running:
        ready = [engine for engine in Engine if engine in running]
        for engine, queue in queues.items():
            wait = program.commands[queue[0]].wait if queue else 0
            if engine not in running and queue and all(tokens[g, engine] for g in Engine if wait >> g & 1):
                ready.append(engine)
        assert ready, "deadlock"
        engine = rng.choices(ready, [weights[one] for one in ready])[0]
        if engine not in running:
            number = running[engine] = queues[engine].pop(0)
            for giver in Engine:
                tokens[giver, engine] -= program.commands[number].wait >> giver & 1
            for word in shadow.writes[number]:
                assert busy.setdefault(word, number) == number, f"{number} and {busy[word]} write {word} together"
        else:
            number = running[engine]
        for word in shadow.reads[number]:
            assert busy.get(word, number) == number, f"{number} reads {word} while {busy[word]} writes it"
            assert writer.get(word) == expected[number][word], f"{number} reads {word} of {writer.get(word)}"
        if rng.random() < 0.5:
            continue
        del running[engine]
        for word in shadow.writes[number]:
            writer[word] = number
            del busy[word]
        for taker in Engine:
            tokens[engine, taker] += program.commands[number].signal >> taker & 1
            assert tokens[engine, taker] <= limit, f"token overflow after {number}"


CASES = [
    ("linear", {"rows": 30, "inputs": 40, "outputs": 30}, {}),
    (
        "linear",
        {"rows": 9, "inputs": 150, "outputs": 9, "bias": 0},
        {"scratchpads": {"act_depth": 16, "wgt_depth": 64}},
    ),
    ("residual_mlp", {"batch": 10, "hidden": 20}, {"control": {"token_bits": 2}, "scratchpads": {"acc_depth": 64}}),
    ("residual_mlp", {"batch": 19, "hidden": 12}, {"control": {"token_bits": 2, "queue_depth": 2}}),
]


def needed_words(item, arch):
    """Scratchpad words that decide about results: rows of the array without valid data may hold anything."""
    words = {(one.memory, int(word)) for one in scratchpad_accesses(item, arch) if not one.writes for word in one.words}
    if item.opcode is not Opcode.TENSOR or item.dataflow == Dataflow.WEIGHT_STATIONARY:
        return words
    last, used = (
        item.act_addr + (item.tile_rows - 1) * item.act_stride,
        item.rows - (item.tile_rows - 1) * arch.array.rows,
    )
    depth = arch.scratchpads.act_depth
    return {(name, word) for name, word in words if name != "act" or word % depth < last or word // depth < used}


@pytest.mark.parametrize("dataflow", ["os", "ws"])
@pytest.mark.parametrize(("name", "settings", "parts"), CASES)
def test_every_word_is_written_before_it_is_read(name, settings, parts, dataflow):
    """Padding included: a word that nobody wrote could hold an infinity, which a pruned weight must not meet."""
    for pattern in ("dense", "2:8", "3:16"):
        program = compile_graph(captured(name, **settings)[2], variant("tiny", **parts), options(pattern, dataflow))
        shadow, written = Shadow(program), set()
        for number, item in enumerate(program.commands):
            missing = needed_words(item, program.arch) - written
            assert not missing, f"{pattern}: instruction {number} reads {min(missing)}, which nobody wrote"
            written |= shadow.writes[number]


@pytest.mark.parametrize("dataflow", ["os", "ws"])
@pytest.mark.parametrize("pattern", ["dense", "2:8"])
@pytest.mark.parametrize(("name", "settings", "parts"), CASES)
def test_programs_are_right_for_any_engine_speeds(name, settings, parts, pattern, dataflow, seed):
    rng, arch = random.Random(seed), variant("tiny", **parts)
    program = compile_graph(captured(name, **settings)[2], arch, options(pattern, dataflow))
    for run in range(3):
        print(f"{name} {pattern} {dataflow}, {len(program.commands)} instructions, run {run}")
        check_interleaving(program, rng)


def test_the_shadow_memory_notices_a_missing_token():
    """The check itself can fail: most waits are needed, so dropping them one by one is noticed most of the time."""
    arch = load("tiny")
    program = compile_graph(captured("linear", rows=20, inputs=20, outputs=20)[2], arch)
    waits = [i for i, item in enumerate(program.commands) if item.wait]
    noticed = 0
    for number in waits[:6]:
        commands = list(program.commands)
        commands[number] = dataclasses.replace(commands[number], wait=0)
        broken = dataclasses.replace(program, commands=tuple(commands))
        try:
            for run in range(10):
                check_interleaving(broken, random.Random(run))
        except AssertionError:
            noticed += 1
    assert noticed >= 4, f"{noticed} of 6 noticed"
