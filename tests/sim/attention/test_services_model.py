"""The cycle model of the jobs beside attention against RTL: cycles and beats of every job, in any memory."""

import numpy as np
import pytest

from hwgen.arch.attention import AttentionSizes
from hwgen.arch.services import Job, Score, pack_service
from models.attention_engine.engine import Importance
from models.memory import Memory
from sim.attention.services_model import ServiceCycles, golden_service, run_service_model
from tests.core_support import timing
from tests.hwgen.services_support import BASES, DESCRIPTOR, SIZES, State, block, fields_of, set_alive
from tests.hwgen.test_attention_services import gather
from tests.hwgen.test_attention_services_quantize import contents_of as quantize_contents
from tests.hwgen.test_attention_services_quantize import random_fields
from tests.hwgen.test_attention_services_rank import contents_of, drawn_values

SMALL = ("16", "32")


def check(name: str, job: Job, fields: dict[str, int], contents: dict[int, bytes], state: State, **memory: object):
    """RTL and model count the same."""
    sizes, core = SIZES[name], block(name)
    at = DESCRIPTOR + sizes.beat_bytes * int(memory.pop("place", 0))
    descriptor = bytes(at) + (pack_service(job, fields) if fields else b"")
    parts = {DESCRIPTOR: descriptor} | contents
    image = Memory({address: data + bytes(-len(data) % sizes.beat_bytes + 64) for address, data in parts.items()})
    set_alive(core, state.alive)
    core.tokens, core.heads = list(state.tokens), list(state.heads)
    alive = [state.alive >> head & 1 for head in range(sizes.max_heads)]
    importance = Importance(np.array(state.tokens), np.array(state.heads), np.array(alive, np.bool_))
    model = run_service_model(sizes, golden_service(sizes, image, job, at, importance), limit=100_000, **memory)
    run = core.run(job, at, image, **memory)
    assert not run.error
    assert model == ServiceCycles(run.cycles, run.read_beats, run.write_beats)


def quantize(rng: np.random.Generator, name: str, sizes: AttentionSizes):
    fields = random_fields(rng, name)
    return Job.QUANTIZE, fields, quantize_contents(rng, name, fields)


def select(rng: np.random.Generator, name: str, sizes: AttentionSizes):
    heads, most = rng.random() < 0.3, sizes.max_length
    length = int(rng.integers(1, (sizes.max_heads if heads else most) + 1))
    fields = {"length": length, "keep": int(rng.choice([1, length, rng.integers(1, length + 1)]))}
    compact, dropped = ((0, 0), (1, 0), (0, 1))[rng.integers(3)]
    if heads:
        fields |= {"score": Score.HEADS, "dropped": dropped}
    else:
        fields |= {"first": int(rng.choice([0, rng.integers(length + 1)])), "protected": int(rng.integers(2))}
        fields |= {"compact": compact, "dropped": dropped}
    bits = np.packbits(rng.random(most + 8 * 64) < 0.1).tobytes()
    return Job.SELECT, fields_of(Job.SELECT, **fields), contents_of(rng, most, protect_addr=bits)


def top_k(rng: np.random.Generator, name: str, sizes: AttentionSizes):
    length = int(rng.integers(1, sizes.max_length + 1))
    k = int(rng.choice([0, length, *rng.integers(length + 1, size=3)]))
    fields = fields_of(Job.TOPK, key=int(rng.integers(2)), length=length, k=k)
    return Job.TOPK, fields, contents_of(rng, sizes.max_length, src_addr=drawn_values(rng, length).tobytes())


def copies(rng: np.random.Generator, name: str, sizes: AttentionSizes):
    rows, row_beats = int(rng.choice([1, 2, 33, rng.integers(1, 80)])), int(rng.choice([1, 2, 5, 24]))
    return Job.GATHER, *gather(rng, name, rows, row_beats, tuple(rng.integers(0, 3, 2).tolist()))


def save(rng: np.random.Generator, name: str, sizes: AttentionSizes):
    length = int(rng.choice([1, sizes.max_length, rng.integers(1, sizes.max_length + 1)]))
    contents = {BASES["dst_addr"]: bytes(4 * sizes.max_length)}
    return Job.SAVE, fields_of(Job.SAVE, length=length), contents


def restore(rng: np.random.Generator, name: str, sizes: AttentionSizes):
    score = int(rng.integers(2))
    most = sizes.max_heads if score == Score.HEADS else sizes.max_length
    fields = fields_of(Job.RESTORE, score=score, length=int(rng.choice([1, most, rng.integers(1, most + 1)])))
    return Job.RESTORE, fields, {BASES["src_addr"]: rng.bytes(4 * sizes.max_length)}


def reset(rng: np.random.Generator, name: str, sizes: AttentionSizes):
    return Job.RESET, {}, {}


CASES = {quantize: 8, reset: 2}
"""Of all others 24: QUANTIZE takes longest."""


@pytest.mark.verilator
@pytest.mark.parametrize(
    "draw", [quantize, select, top_k, copies, save, restore, reset], ids=lambda draw: draw.__name__
)
@pytest.mark.parametrize("name", SMALL)
def test_random_jobs(name, draw, seed):
    """Heads that are gone, gaps, ties, every kind of list; descriptors across pages; memories near, far, stalling."""
    for case in range(CASES.get(draw, 24)):
        rng = np.random.default_rng([seed, case])
        job, fields, contents = draw(rng, name, SIZES[name])
        state, place = State.drawn(rng, SIZES[name]), int(rng.integers(8)) * (4096 // SIZES[name].beat_bytes - 1)
        print(f"case {case}: {fields}, alive {state.alive:b}, descriptor in beat {place}")
        check(name, job, fields, contents, state, place=place, **timing(rng, case))


def test_a_job_that_does_not_end_in_time():
    memory = Memory({DESCRIPTOR: pack_service(Job.TOPK, fields_of(Job.TOPK, length=64)), BASES["src_addr"]: bytes(256)})
    job = golden_service(SIZES["16"], memory, Job.TOPK, DESCRIPTOR, Importance.empty(SIZES["16"]))
    with pytest.raises(AssertionError, match=r"^TOPK has not ended after 50 cycles$"):
        run_service_model(SIZES["16"], job, limit=50)
