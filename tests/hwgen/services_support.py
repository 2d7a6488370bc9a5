"""Random jobs beside attention on RTL and on the golden model, with everything that they may change compared."""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from hwgen.arch.attention import AttentionSizes
from hwgen.arch.services import SERVICES, Job, Score, pack_service
from models.attention_engine.engine import Importance
from models.attention_engine.services import run_service
from models.memory import Memory
from sim.attention.services_block import ServiceBlock, ServiceRun
from tests.core_support import SIZES as SMALL

SIZES = {
    "16": replace(SMALL["16"], softmax_lanes=8, max_heads=6),
    "32": replace(SMALL["32"], softmax_lanes=4, max_length=128),
    "64": AttentionSizes(),
}
OPERANDS = {"16": "fp16", "32": "bf16", "64": "fp16"}
SPAN = 1 << 22
"""Each region of a job has this many addresses to itself."""
DESCRIPTOR = 0
BASES = {
    name: (place + 1) * SPAN
    for place, name in enumerate(
        ("src_addr", "steps_addr", "msb_addr", "low_addr", "index_addr", "dst_addr", "value_addr", "protect_addr")
    )
}


@cache
def block(name: str) -> ServiceBlock:
    """The core of these sizes, Verilated."""
    return ServiceBlock(SIZES[name], f"services_{name}", operand=OPERANDS[name])


def fields_of(job: Job, **values: int) -> dict[str, int]:
    """Fields of a descriptor: addresses as in BASES, others their lowest value."""
    return {item.name: BASES.get(item.name, item.low) for item in SERVICES[job]} | values


@dataclass
class State:
    """Importance and heads that are alive before a job."""

    tokens: list[int]
    heads: list[int]
    alive: int

    @classmethod
    def drawn(cls, rng: np.random.Generator, sizes: AttentionSizes) -> "State":
        """Few different values, so that many are equal, or any at all."""
        high = int(rng.choice([2, 50, 2**32 - 1]))
        tokens, heads = (rng.integers(0, high, count).tolist() for count in (sizes.max_length, sizes.max_heads))
        alive = int(rng.integers(1 << sizes.max_heads)) if rng.random() < 0.6 else (1 << sizes.max_heads) - 1
        return cls(tokens, heads, alive)


def set_alive(core: ServiceBlock, alive: int) -> None:
    """Bring the register of the core to `alive`, by jobs: RESET, then selections."""
    sizes = core.sizes
    beat = sizes.beat_bytes
    memory, whole = Memory({0: bytes(64 + beat), SPAN: bytes(64)}), (1 << sizes.max_heads) - 1

    def select(length: int, keep: int) -> None:
        fields = fields_of(Job.SELECT, score=Score.HEADS, length=length, keep=keep, index_addr=SPAN)
        memory.write(0, pack_service(Job.SELECT, fields))
        assert not core.run(Job.SELECT, 0, memory, latency=1).error

    assert not core.run(Job.RESET, 0, memory, latency=1).error
    assert core.alive == whole
    if alive == whole:
        return
    # None: the last one is selected alone, then there is no candidate among the first.
    chosen = alive or 1 << sizes.max_heads - 1
    core.heads = [chosen >> head & 1 for head in range(sizes.max_heads)]
    select(sizes.max_heads, chosen.bit_count())
    if alive == 0:
        select(1, 1)
    assert core.alive == alive


def compare(
    name: str, job: Job, fields: dict[str, int], contents: dict[int, bytes], state: State, **memory: object
) -> ServiceRun:
    """Run a job on both: all of memory, importance and heads are the same afterwards."""
    sizes, core = SIZES[name], block(name)
    descriptor = pack_service(job, fields) if fields else bytes(64)
    contents = {DESCRIPTOR: descriptor + bytes(-len(descriptor) % sizes.beat_bytes)} | {
        address: data + bytes(-len(data) % sizes.beat_bytes) for address, data in contents.items()
    }
    golden, image = Memory(contents), Memory(contents)
    set_alive(core, state.alive)
    alive = [state.alive >> head & 1 for head in range(sizes.max_heads)]
    importance = Importance(np.array(state.tokens), np.array(state.heads), np.array(alive, np.bool_))
    core.tokens, core.heads = list(state.tokens), list(state.heads)
    run_service(sizes, golden, job, DESCRIPTOR, importance, OPERANDS[name])
    run = core.run(job, DESCRIPTOR, image, **memory)
    assert not run.error
    for address, data in contents.items():
        wanted, seen = golden.read(address, len(data)), image.read(address, len(data))
        assert seen == wanted, f"from {address + next(i for i, (a, b) in enumerate(zip(seen, wanted)) if a != b):#x} on"
    assert core.tokens == importance.tokens.tolist()
    assert core.heads == importance.heads.tolist()
    assert core.alive == sum(int(bit) << head for head, bit in enumerate(importance.alive))
    return run
