from collections import Counter, defaultdict, deque
from dataclasses import replace

import numpy as np
import pytest

from hwgen.arch import ProgramError, load
from hwgen.arch.commands import command, decode
from hwgen.arch.isa import INTEGER, TABLE, Engine, Format, Opcode, Operation, Target, Walk, engines, load_opcode
from models.machine import Machine
from models.machine_output import stored_shape
from models.races import check_races
from models.tokens import check_tokens
from sim.random.dependencies import Access, Step, with_tokens
from sim.random.jobs import JobBuilder
from sim.random.programs import random_program

ARCHES = ("tiny", "tiny2", "sat16")


@pytest.mark.parametrize("name", ARCHES)
def test_random_programs_are_legal(name, seed):
    arch = load(name)
    for number in range(25):
        program = random_program(arch, seed + number)
        machine = Machine(arch, {program.base: program.image})
        result = machine.run(program.encoded)
        assert result.instructions == len(program.commands)
        assert check_tokens(program.encoded, arch) is None
        assert check_races(program.encoded, arch) is None
        start = program.program - program.base
        assert program.image[start : start + 32 * len(program.commands)].tobytes() == program.encoded


def traits(item, row) -> set:
    """What an instruction uses: values of its small fields, and combinations that matter."""
    found = {(item.opcode, field.name, item.operands[field.name]) for field in row.operands if is_small(field)}
    if item.opcode in (Opcode.LOAD, Opcode.FILL):
        found |= {("planes", item.target, item.planes > 1), ("padded", item.target, item.pad > 0)}
        found |= {("rounds", item.target, item.stride > 0), ("zeros only", item.beats == 0)}
    if item.opcode is Opcode.TENSOR:
        found |= {("walk", item.walk, item.sparse), ("runs", item.walk, 0 < item.run < item.groups)}
        found |= {("pattern", item.n, item.m)} if item.sparse else set()
    if item.opcode is Opcode.VECTOR:
        found |= {("shuffle", item.operation, item.shuffle), ("shift", item.operation, item.shift > 0, item.right)}
    if item.opcode is Opcode.STORE:
        found |= {("form", item.format, item.transpose), ("reduced", item.format, item.n, item.m)}
    return found


def is_small(field) -> bool:
    return field.choices is not None or field.limit == 1


def with_ports(name, ports):
    arch = load(name)
    return replace(arch, memory=replace(arch.memory, ports=ports))


@pytest.mark.parametrize("ports", [1, 2])
def test_random_programs_cover_the_instruction_set(seed, ports):
    arch, seen = with_ports("tiny", ports), Counter()
    for number in range(200):
        for item in random_program(arch, seed + number).commands:
            seen.update(traits(item, TABLE[item.opcode]))
    patterns = [(1, 4), (2, 4), (2, 8), (4, 8), (2, 16)]
    rows = [row for row in TABLE.values() if row.engine in engines(arch)]
    small = [(row.opcode, field) for row in rows for field in row.operands if is_small(field)]
    small = [(opcode, field) for opcode, field in small if field.name != "target"]
    wanted = [(opcode, field.name, value) for opcode, field in small for value in range(field.limit + 1)]
    wanted += [(load_opcode(arch, target), "target", target) for target in Target]
    wanted += [(name, target, used) for name in ("planes", "padded") for target in Target for used in (False, True)]
    wanted += [("rounds", Target.ACT_CHUNKS, used) for used in (False, True)] + [("zeros only", True)]
    wanted += [("walk", walk, sparse) for walk in Walk for sparse in (0, 1)]
    wanted += [("runs", Walk.ACT, True), ("runs", Walk.WGT, True)]
    wanted += [("pattern", *pattern) for pattern in patterns] + [("reduced", Format.PACKED, *p) for p in patterns]
    wanted += [("shuffle", operation, s) for operation in Operation for s in range(3)]
    wanted += [("shift", operation, True, right) for operation in INTEGER for right in (0, 1)]
    wanted += [("form", form, bit) for form in Format for bit in (0, 1) if (form, bit) != (Format.FP32, 1)]
    assert [item for item in wanted if not seen[item]] == []


def test_packed_columns_are_loaded_again(seed):
    arch, again = load("tiny"), 0
    for number in range(50):
        stored = set()
        for item in random_program(arch, seed + number).commands:
            if item.opcode is Opcode.STORE and item.format == Format.PACKED:
                rows, _ = stored_shape(item, arch.array)
                stored |= {item.dram_addr + y * item.row_stride for y in range(rows)}
            again += item.opcode is Opcode.LOAD and item.target == Target.PACKED and item.dram_addr in stored
    assert again > 0


def test_equal_seeds_give_equal_programs(seed):
    arch = load("tiny")
    one, two = random_program(arch, seed), random_program(arch, seed)
    assert one.encoded == two.encoded
    assert (one.image == two.image).all()
    assert random_program(arch, seed + 1).encoded != one.encoded


class EnginesSideBySide:
    """Runs commands as the hardware may: one queue per engine, tokens, and a random time for each instruction."""

    def __init__(self, commands, rng):
        self.start, self.end, self.highest = {}, {}, 0
        queues = {engine: deque(i for i, c in enumerate(commands) if c.engine == engine) for engine in Engine}
        tokens, running, now = defaultdict(int), {}, 0
        while any(queues.values()) or running:
            for engine, index in [(e, i) for e, i in running.items() if self.end[i] <= now]:
                del running[engine]
                for taker in Engine:
                    tokens[engine, taker] += commands[index].signal >> taker & 1
                self.highest = max(self.highest, *tokens.values())
            for engine in Engine:
                if engine in running or not queues[engine]:
                    continue
                givers = [giver for giver in Engine if commands[queues[engine][0]].wait >> giver & 1]
                if all(tokens[giver, engine] for giver in givers):
                    for giver in givers:
                        tokens[giver, engine] -= 1
                    index = running[engine] = queues[engine].popleft()
                    self.start[index], self.end[index] = now, now + int(rng.integers(1, 40))
            assert now < 100_000, "deadlock"
            now += 1


@pytest.mark.parametrize("name", ["tiny", "tiny2"])
def test_tokens_keep_conflicting_steps_apart_whatever_they_take(name, seed):
    arch, overlapped = load(name), 0
    rng = np.random.default_rng(seed)
    for _ in range(20):
        builder = JobBuilder(arch, rng)
        for _ in range(3):
            builder.add_job()
        run = EnginesSideBySide(with_tokens(builder.steps, arch), rng)
        assert run.highest < 1 << arch.control.token_bits
        for later, step in enumerate(builder.steps):
            for earlier in range(later):
                if step.must_follow(builder.steps[earlier]):
                    assert run.start[later] >= run.end[earlier], (earlier, later)
                overlapped += run.start[later] < run.end[earlier]
    assert overlapped > 0, "engines must be able to overlap"


def test_too_many_tokens_are_refused():
    steps = []
    for word in range(20):
        steps.append(Step(command(Opcode.LOAD, beats=2), [], [Access("acc", word, word + 1)]))
    for word in range(20):
        steps.append(Step(command(Opcode.STORE), [Access("acc", word, word + 1)], []))
    with pytest.raises(ProgramError, match=r"^20 tokens from LOAD to STORE could overflow, 15 can wait$"):
        with_tokens(steps, load("tiny"))


def test_commands_survive_encoding(seed):
    program = random_program(load("tiny"), seed)
    decoded = [decode(program.encoded[at : at + 32]) for at in range(0, len(program.encoded), 32)]
    assert decoded == program.commands
