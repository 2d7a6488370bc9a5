from collections import Counter, defaultdict, deque

import numpy as np
import pytest

from hwgen.arch import ProgramError, load
from hwgen.arch.isa import Engine, Opcode, Operation, command, decode
from models.machine import Machine
from models.races import check_races
from models.tokens import check_tokens
from sim.dependencies import Access, Step, with_tokens
from sim.random_jobs import JobBuilder
from sim.random_programs import random_program

ARCHES = ("tiny", "tiny2", "sat16")
VECTOR_FIELDS = ("relu", "right", "shuffle", "x_hold", "y_hold", "z_hold")


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


def test_random_programs_cover_the_instruction_set(seed):
    arch, seen = load("tiny"), Counter()
    for number in range(200):
        for item in random_program(arch, seed + number).commands:
            for name in ("dataflow", "sparse", "first", "last", "target", "format", "operation", *VECTOR_FIELDS):
                if name in item.operands:
                    seen[item.opcode, name, item.operands[name]] += 1
            if item.opcode is Opcode.TENSOR and item.sparse:
                seen[item.n, item.m] += 1
            seen["padded"] += item.operands.get("pad", 0) > 0
    wanted = [(Opcode.LOAD, "target", target) for target in range(6)]
    wanted += [(Opcode.TENSOR, name, bit) for name in ("dataflow", "sparse", "first", "last") for bit in (0, 1)]
    wanted += [(Opcode.VECTOR, "operation", operation) for operation in Operation]
    wanted += [(Opcode.VECTOR, name, bit) for name in VECTOR_FIELDS for bit in (0, 1)]
    wanted += [(Opcode.STORE, "format", kind) for kind in (0, 1)]
    wanted += [(1, 4), (2, 4), (2, 8), (4, 8), (2, 16), "padded"]
    assert [item for item in wanted if not seen[item]] == []


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
