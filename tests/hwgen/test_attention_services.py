"""Services of the attention engine on RTL: rows copied, sequences begun, descriptors refused, cycles."""

import numpy as np
import pytest

from hwgen.arch import UserError
from hwgen.arch.services import SERVICES, Job, Score
from models.attention_engine.engine import Importance
from models.attention_engine.planes import row_bytes
from models.attention_engine.services import run_service
from models.memory import Memory
from sim.attention.services_block import ServiceBlock
from tests.core_support import timing
from tests.hwgen.services_support import (
    BASES,
    DESCRIPTOR,
    OPERANDS,
    SIZES,
    State,
    block,
    compare,
    fields_of,
    set_alive,
)

pytestmark = pytest.mark.verilator


def gather(rng: np.random.Generator, name: str, rows: int, row_beats: int, gaps: tuple[int, int]):
    """Fields and contents of a copy of any rows of 100; `gaps`: beats between rows of source and copy."""
    beat = SIZES[name].beat_bytes
    strides = [(row_beats + gap) * beat for gap in gaps]
    fields = fields_of(Job.GATHER, rows=rows, row_beats=row_beats, src_stride=strides[0], dst_stride=strides[1])
    indices = rng.integers(0, 100, rows).astype("<u2")
    contents = {
        BASES["index_addr"]: indices.tobytes(),
        BASES["src_addr"]: rng.bytes(100 * strides[0]),
        BASES["dst_addr"]: rng.bytes((rows + 1) * strides[1]),
    }
    return fields, contents


@pytest.mark.parametrize("name", SIZES)
def test_gather(name, seed):
    for case in range(25):
        rng = np.random.default_rng([seed, case])
        rows, row_beats = int(rng.choice([1, 2, 33, rng.integers(1, 150)])), int(rng.choice([1, 2, 5, 24]))
        fields, contents = gather(rng, name, rows, row_beats, tuple(rng.integers(0, 3, 2).tolist()))
        print(f"case {case}: {fields}")
        run = compare(name, Job.GATHER, fields, contents, State.drawn(rng, SIZES[name]), **timing(rng, case))
        beat = SIZES[name].beat_bytes
        assert run.read_beats == max(1, 64 // beat) + -(-2 * rows // beat) + rows * row_beats
        assert run.write_beats == rows * row_beats


@pytest.mark.parametrize("name", SIZES)
def test_reset(name, seed):
    state = State.drawn(np.random.default_rng(seed), SIZES[name])
    state.alive = 1
    run = compare(name, Job.RESET, {}, {}, state)
    assert (run.cycles, run.read_beats, run.write_beats) == (3, 0, 0)
    fresh = ServiceBlock(SIZES[name], f"services_{name}", operand=OPERANDS[name])
    assert fresh.alive == block(name).alive == (1 << SIZES[name].max_heads) - 1


@pytest.mark.parametrize("name", SIZES)
def test_state(name, seed):
    """Importance to memory, and back into a core that knows something else; heads by their bits."""
    sizes = SIZES[name]
    for case in range(40):
        rng = np.random.default_rng([seed, case])
        job, by_head = ((Job.SAVE, 0), (Job.RESTORE, 0), (Job.RESTORE, 1))[case % 3]
        most = sizes.max_heads if by_head else sizes.max_length
        length = int(rng.choice([1, most, rng.integers(1, most + 1)]))
        fields = fields_of(job, length=length) | ({"score": by_head} if job is Job.RESTORE else {})
        contents = {BASES[name]: rng.bytes(4 * sizes.max_length + 64) for name in ("src_addr", "dst_addr")}
        print(f"case {case}: {job.name} {fields}")
        compare(name, job, fields, contents, State.drawn(rng, sizes), **timing(rng, case))


QUANTIZE = {"rows": 3, "heads": 2, "head_size": 16, "bits": 4, "src_stride": 64, "msb_stride": 64, "low_stride": 64}


@pytest.mark.parametrize(
    ("job", "change"),
    [
        (Job.QUANTIZE, {"rows": 0}),
        (Job.QUANTIZE, {"heads": 0}),
        (Job.QUANTIZE, {"heads": 7}),
        (Job.QUANTIZE, {"group": 0}),
        (Job.QUANTIZE, {"group": 4}),
        (Job.QUANTIZE, {"head_size": 24}),
        (Job.QUANTIZE, {"head_size": 144}),
        (Job.QUANTIZE, {"bits": 5}),
        (Job.QUANTIZE, {"bits": 2}),
        (Job.QUANTIZE, {"bits": 18}),
        (Job.QUANTIZE, {"bits": 14, "split": 1}),
        (Job.QUANTIZE, {"src_stride": 2}),
        (Job.QUANTIZE, {"low_addr": 6}),
        (Job.QUANTIZE, {"steps_addr": 4}),
        (Job.SELECT, {"length": 0}),
        (Job.SELECT, {"length": 65}),
        (Job.SELECT, {"score": Score.HEADS, "length": 7}),
        (Job.SELECT, {"keep": 0}),
        (Job.SELECT, {"keep": 2}),
        (Job.SELECT, {"score": Score.HEADS, "first": 1}),
        (Job.SELECT, {"score": Score.HEADS, "protected": 1}),
        (Job.SELECT, {"score": Score.HEADS, "compact": 1}),
        (Job.SELECT, {"compact": 1, "dropped": 1}),
        (Job.SELECT, {"index_addr": 8}),
        (Job.GATHER, {"rows": 0}),
        (Job.GATHER, {"row_beats": 0}),
        (Job.GATHER, {"dst_stride": 4}),
        (Job.TOPK, {"length": 65}),
        (Job.TOPK, {"k": 2}),
        (Job.TOPK, {"value_addr": 4}),
        (Job.SAVE, {"length": 0}),
        (Job.SAVE, {"length": 65}),
        (Job.SAVE, {"dst_addr": 8}),
        (Job.RESTORE, {"length": 65}),
        (Job.RESTORE, {"score": Score.HEADS, "length": 7}),
        (Job.RESTORE, {"src_addr": 4}),
    ],
)
def test_descriptors_that_are_refused(job, change, seed):
    """The core says so, reads the descriptor only, writes nothing; golden refuses too; the next job runs."""
    fields = fields_of(job, **(QUANTIZE if job is Job.QUANTIZE else {})) | change
    bits = place = 0
    for item in SERVICES[job]:
        bits |= fields[item.name] << place
        place += item.width
    check_refused("16", job, DESCRIPTOR, bits.to_bytes(64, "little"), reads=4)
    compare("16", Job.GATHER, *gather(np.random.default_rng(seed), "16", 3, 2, (0, 1)), State([3] * 64, [4] * 6, 5))


def check_refused(name: str, job: int, address: int, descriptor: bytes, reads: int) -> None:
    """Both refuse; nothing is written, importance and heads are as before."""
    sizes, core = SIZES[name], block(name)
    set_alive(core, 0b101)
    importance = Importance.empty(sizes)
    memory = Memory({DESCRIPTOR: descriptor + bytes(64)})
    with pytest.raises(UserError):
        run_service(sizes, memory, job, address, importance)
    run = core.run(job, address, memory)
    assert (run.error, run.read_beats, run.write_beats, core.alive) == (True, reads, 0, 0b101)


@pytest.mark.parametrize(("job", "address"), [(0, 0), (Job.TOPK, 8), (Job.GATHER, 1), (Job.SAVE, 8)])
def test_commands_that_are_no_jobs(job, address):
    """Nothing is read."""
    check_refused("16", job, address, bytes(64), reads=0)


def quantize(rows: int, head_size: int, bits: int, split: int) -> tuple[dict[str, int], dict[int, bytes]]:
    """Operands of 12 heads, row behind row."""
    strides = {
        "src_stride": 12 * head_size * 2,
        "msb_stride": rows * row_bytes(head_size, bits),
        "low_stride": rows * row_bytes(head_size, 4),
    }
    fields = fields_of(Job.QUANTIZE, rows=rows, heads=12, head_size=head_size, bits=bits, split=split, **strides)
    contents = {
        BASES["src_addr"]: bytes(rows * strides["src_stride"]),
        BASES["steps_addr"]: bytes(64),
        BASES["msb_addr"]: bytes(12 * strides["msb_stride"]),
        BASES["low_addr"]: bytes(12 * strides["low_stride"]),
    }
    return fields, contents


def measured(seed: int) -> dict[str, tuple]:
    """Jobs whose cycles are stated, with the most that they may take."""
    rng = np.random.default_rng(seed)
    lists = {BASES["index_addr"]: bytes(2048), BASES["value_addr"]: bytes(4096)}
    values = lists | {BASES["src_addr"]: rng.normal(size=1024).astype("<f4").tobytes()}
    tokens = {"length": 1024, "keep": 512}
    heads = {"score": Score.HEADS, "length": 16, "keep": 8}
    return {
        "128 x 384 to 6 bits": (1_700, Job.QUANTIZE, *quantize(128, 32, 6, 0)),
        "128 x 384 to 6 + 4 bits": (1_700, Job.QUANTIZE, *quantize(128, 32, 6, 1)),
        "1 x 768 to 6 + 4 bits": (200, Job.QUANTIZE, *quantize(1, 64, 6, 1)),
        "64 rows of 12 beats": (950, Job.GATHER, *gather(rng, "64", 64, 12, (0, 0))),
        "512 rows of a beat": (670, Job.GATHER, *gather(rng, "64", 512, 1, (0, 0))),
        "512 of 1,024 tokens": (380, Job.SELECT, fields_of(Job.SELECT, **tokens), lists),
        "512 of 1,024 tokens, compact": (400, Job.SELECT, fields_of(Job.SELECT, **tokens, compact=1), lists),
        "8 of 16 heads": (90, Job.SELECT, fields_of(Job.SELECT, **heads), lists),
        "1,024 tokens": (140, Job.SAVE, fields_of(Job.SAVE, length=1024), {BASES["dst_addr"]: bytes(4096)}),
        "1,024 tokens back": (190, Job.RESTORE, fields_of(Job.RESTORE, length=1024), values),
        "512 of 1,024 values": (400, Job.TOPK, fields_of(Job.TOPK, length=1024, k=512), values),
    }


def test_cycles(seed):
    """Memory latency 40, no stalls; the table in hwgen/attention/README.md."""
    rng = np.random.default_rng(seed)
    state = State(rng.integers(0, 1 << 20, 1024).tolist(), rng.integers(0, 1 << 20, 16).tolist(), 0xFFFF)
    for name, (most, job, fields, contents) in measured(seed).items():
        run = compare("64", job, fields, contents, state)
        print(f"{job.name}, {name}: {run.cycles:,} cycles, {run.read_beats:,} beats read, {run.write_beats:,} written")
        assert run.cycles <= most, name
