"""Rows of outputs to beats: random addresses, sizes, zero rows and stalls; bursts, strobes and cycles."""

import random
from functools import cache

import pytest

from hwgen.arch.attention import AttentionSizes
from hwgen.attention.words import ReadRequest
from hwgen.attention.writer import PAGE_BYTES, WriteBeat, WriteCommand, Writer
from sim.step_block import StepBlock
from tests.support import at_random, never

pytestmark = pytest.mark.verilator

SIZES = {
    "usual": AttentionSizes(),
    "narrow": AttentionSizes(beat_bytes=16, output_lanes=8, multipliers=16),
    "single": AttentionSizes(beat_bytes=32, output_lanes=1, multipliers=16),
}


@cache
def block(name: str) -> StepBlock:
    return StepBlock(Writer(SIZES[name]), f"writer_{name}")


def random_row(source: random.Random) -> tuple[int, bytes, bool]:
    """Address, bytes and whether they are a row of zeros; many rows cross a page."""
    size = 2 * source.choice([16, 32, 48, 64, 80, 128])
    page = PAGE_BYTES * source.randrange(1 << 20)
    address = page + 4 * source.randrange(PAGE_BYTES // 4) if source.random() < 0.7 else page - 4 * source.randrange(80)
    zero = source.random() < 0.3
    return max(0, address), bytes(size) if zero else source.randbytes(size), zero


def run(name: str, rows: list[tuple[int, bytes, bool]], stalls, sinks) -> tuple[list, list, int]:
    """Bursts, beats, and the cycles until nothing is inside."""
    dut, step = block(name), 2 * SIZES[name].output_lanes
    commands = [
        WriteCommand().const({"address": address, "head_size": len(data) // 2, "zero": zero}).as_bits()
        for address, data, zero in rows
    ]
    words = [
        int.from_bytes(data[place : place + step], "little")
        for _, data, zero in rows
        for place in range(0, len(data) * (not zero), step)
    ]
    patterns, shown, bursts, beats = [stalls(), stalls(), sinks(), sinks()], [False, False], [], []
    for cycle in range(20_000):
        for side, waiting in enumerate((commands, words)):
            shown[side] = bool(waiting) and (shown[side] or not next(patterns[side]))
        ready = [not next(pattern) for pattern in patterns[2:]]
        out = dut.step(
            command=commands[0] if shown[0] else 0,
            command_valid=shown[0],
            i=words[0] if shown[1] else 0,
            i_valid=shown[1],
            request_ready=ready[0],
            data_ready=ready[1],
        )
        for side, (port, waiting) in enumerate((("command", commands), ("i", words))):
            if shown[side] and out[f"{port}_ready"]:
                waiting.pop(0)
                shown[side] = False
        if out["request_valid"] and ready[0]:
            burst = ReadRequest().from_bits(out["request"])
            bursts.append((burst.address, burst.beats + 1))
        if out["data_valid"] and ready[1]:
            beats.append(WriteBeat(SIZES[name].beat_bytes).from_bits(out["data"]))
        if not (out["busy"] or commands or words):
            return bursts, beats, cycle
    raise AssertionError("the writer did not finish in 20,000 cycles")


def written(name: str, bursts: list, beats: list) -> dict[int, int]:
    """Bytes that beats write; checks where bursts lie and end."""
    size, memory, beats = SIZES[name].beat_bytes, {}, iter(beats)
    for address, count in bursts:
        assert address % size == 0
        assert address // PAGE_BYTES == (address + size * count - 1) // PAGE_BYTES
        for number in range(count):
            beat = next(beats)
            assert beat.last == (number == count - 1)
            for place, value in enumerate(int(beat.data).to_bytes(size, "little")):
                if beat.strobes >> place & 1:
                    memory.setdefault(address + size * number + place, []).append(value)
    assert next(beats, None) is None
    return memory


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("stall", [0, 0.4])
def test_rows(name, stall, seed):
    source = random.Random(seed)
    rows = [random_row(source) for _ in range(100)]
    pattern = at_random(seed, stall) if stall else never
    bursts, beats, _ = run(name, rows, pattern, pattern)
    wanted: dict[int, list[int]] = {}
    for address, data, _ in rows:
        for place, value in enumerate(data):
            wanted.setdefault(address + place, []).append(value)
    assert written(name, bursts, beats) == wanted


def test_a_word_a_cycle():
    """A row of 64 at the start of a beat: a cycle for the burst, 16 for the words."""
    rows = [(4096 + 128 * number, bytes(range(128)), False) for number in range(20)]
    _, _, cycles = run("usual", rows, never, never)
    assert cycles == 20 * 17 + 1
