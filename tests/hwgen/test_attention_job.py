"""The reader of descriptors: fields, records and masks of a job while it runs, those of the next one beside it."""

import random
from collections import deque
from dataclasses import dataclass

import pytest

from hwgen.arch.attention import JOB, JOB_BYTES, RECORD, RECORD_BYTES, AttentionSizes, KeyMode, pack
from hwgen.attention.job import JobReader
from tests.support import simulate

SIZES = {
    beat: AttentionSizes(multipliers=16, beat_bytes=beat, softmax_lanes=4, max_length=256, max_heads=4, output_lanes=1)
    for beat in (16, 64, 256)
}
KEYS, HEADS, LATENCY, RUNS = 200, 3, 9, 60


@dataclass
class Offered:
    """A job in memory: its address, whether it is refused, its keys' mask, a number in each of its records."""

    address: int
    bad: bool
    mask: int
    scales: list[int]


def job_fields(source: random.Random, place: int) -> dict[str, int]:
    fields = {item.name: item.low for item in JOB}
    even = {"query_bits": 8, "key_bits": 8, "value_bits": 8, "head_size": 16}
    own = {"heads": HEADS, "keys": KEYS, "masked": 1, "key_mode": KeyMode.NEVER, "queries": source.randrange(1, 1000)}
    return fields | even | own | {"mask_addr": place + 1024, "heads_addr": place + 2048}


def prepare(source: random.Random, count: int) -> tuple[bytearray, list[Offered]]:
    """Memory with jobs; some are refused for a field, and one because it begins within a beat."""
    image, jobs = bytearray(4096 * count), []
    for number in range(count):
        place, bad = 4096 * number, number in (2, 3, count - 2)
        fields = job_fields(source, place)
        descriptor = pack(JOB, JOB_BYTES, fields)
        if bad and number != 3:
            descriptor = bytes([descriptor[0] & ~0x1F]) + descriptor[1:]
        mask, scales = source.getrandbits(KEYS), [source.randrange(1 << 15, 1 << 16) for _ in range(HEADS)]
        records = b"".join(
            pack(RECORD, RECORD_BYTES, {item.name: item.low for item in RECORD} | {"scale_mantissa": scale})
            for scale in scales
        )
        image[place : place + JOB_BYTES] = descriptor
        image[place + 1024 : place + 1024 + 25] = mask.to_bytes(25, "little")
        image[place + 2048 : place + 2048 + len(records)] = records
        jobs.append(Offered(place + 8 * (number == 3), bad, mask, scales))
    return image, jobs


class Bench:
    """Offers jobs one behind the other, ends each some time after its start, and looks at its tables meanwhile."""

    def __init__(self, beat: int, seed: int) -> None:
        self.beat, self.dut, source = beat, JobReader(SIZES[beat]), random.Random(seed)
        self.image, self.jobs = prepare(source, 7)
        self.starts, self.ends, self.events, self.taken, self.asked = [], [], [], [], deque()

    async def memory(self, ctx):
        dut, cycle = self.dut, 0
        ctx.set(dut.request.ready, 1)
        while True:
            due = bool(self.asked) and self.asked[0][0] <= cycle
            ctx.set(dut.data.valid, due)
            if due:
                place = self.asked.popleft()[1]
                ctx.set(dut.data.payload, int.from_bytes(self.image[place : place + self.beat], "little"))
            _, _, valid, request = await ctx.tick().sample(dut.request.valid, dut.request.payload)
            if valid:
                assert request.address % self.beat == 0
                self.asked.append((cycle + LATENCY, request.address))
            cycle += 1

    async def commands(self, ctx):
        for job in self.jobs:
            ctx.set(self.dut.command.payload, job.address)
            ctx.set(self.dut.command.valid, 1)
            while not (await ctx.tick().sample(self.dut.command.ready))[2]:
                pass
            ctx.set(self.dut.command.valid, 0)

    async def follow(self, ctx):
        """Starts and errors in their order, and what is shown while a job runs."""
        dut, cycle = self.dut, 0
        for number, job in enumerate(self.jobs):
            while True:
                cycle += 1
                _, _, start, error, begins, busy = await ctx.tick().sample(dut.start, dut.error, dut.begins, dut.busy)
                self.events += ["begins"] if begins else []
                assert not (start and error)
                assert busy or begins or not self.starts
                if start or error:
                    break
            self.events.append("error" if error else "start")
            assert bool(error) == job.bad, f"job {number}"
            if start:
                self.starts.append(cycle)
                cycle += await self.look(ctx, job, cycle)
                self.ends.append(cycle)

    async def look(self, ctx, job: Offered, cycle: int) -> int:
        """The tables of a job until it ends; gives how many cycles that took."""
        dut, cycles = self.dut, 0
        for step in range(RUNS):
            head, key = step % HEADS, step * 7 % KEYS
            ctx.set(dut.record_head_1, head)
            ctx.set(dut.index, key)
            ctx.set(dut.finished, step == RUNS - 1)
            _, _, scale, seen, again, keys = await ctx.tick().sample(
                dut.record_1.scale_mantissa, dut.mask, dut.start | dut.error, dut.job.keys
            )
            cycles += 1
            assert not again, "a job ran"
            assert keys == KEYS
            # What the parts of the core ask for comes behind records and mask.
            if step > LATENCY + 20:
                assert (scale, seen) == (job.scales[head], job.mask >> key & 1), f"step {step}"
        ctx.set(dut.finished, 0)
        return cycles


@pytest.mark.parametrize("beat", SIZES)
def test_jobs_one_behind_the_other(beat, seed):
    """Tables are those of the job that runs; one that is refused says so when the one before has ended."""
    bench = Bench(beat, seed)
    simulate(bench.dut, bench.follow, bench.commands, background=[bench.memory], limit=3000)
    assert [event for event in bench.events if event != "begins"] == [
        "error" if job.bad else "start" for job in bench.jobs
    ]
    # A job begins with its command or at the end of the one before; so does one that is refused.
    assert bench.events.count("begins") == len(bench.jobs)


def test_next_job_starts_when_the_one_before_has_ended(seed):
    bench = Bench(64, seed)
    bench.jobs = [job for job in bench.jobs if not job.bad]
    simulate(bench.dut, bench.follow, bench.commands, background=[bench.memory], limit=3000)
    assert bench.starts[1:] == [end + 1 for end in bench.ends[:-1]]
