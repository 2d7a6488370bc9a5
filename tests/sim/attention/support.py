"""Random jobs on the Verilated attention core, held against the golden model."""

from functools import cache

import numpy as np

from hwgen.arch.attention import (
    JOB,
    JOB_BYTES,
    KEEP_FRACTION,
    RECORD_BYTES,
    AttentionSizes,
    KeyMode,
    keep_share,
    pack,
)
from models.attention_engine.engine import AttentionEngine, JobResult
from models.attention_engine.planes import beats, row_bytes
from models.memory import Memory
from sim.attention.block import AttentionBlock
from tests import core_support
from tests.models.attention_engine.support import SPAN, Layer, random_layer

SIZES = dict(core_support.SIZES)
SMALL = tuple(SIZES)
"""Names of the sizes that most tests run on."""
FULL = AttentionSizes()
DESCRIPTOR = 8 * SPAN
WHOLE = 1 << KEEP_FRACTION


@cache
def block(name: str) -> AttentionBlock:
    """A core of one of `SIZES` or of the full size."""
    return AttentionBlock(SIZES.get(name, FULL), f"attention_{name}")


def random_job(rng: np.random.Generator, **choices: object) -> Layer:
    """A job that the small cores take."""
    keys = int(rng.choice([1, 2, 5, 16, 33, 64, rng.integers(1, 65)]))
    small = {
        "queries": int(rng.integers(1, 5)),
        "keys": keys,
        "key_mode": int(rng.choice([KeyMode.NEVER, KeyMode.ROW, KeyMode.KEY, KeyMode.KEY, KeyMode.ALWAYS])),
        "value_keep": int(rng.choice([WHOLE, keep_share(0.5), keep_share(0.1)])),
        "forget": int(rng.choice([256, 200, 0])),
    }
    layer = random_layer(rng, **small | choices)
    if rng.random() < 0.5:
        layer.job["out_stride"] += 4 * int(rng.integers(1, 9))
    return layer


def images(layer: Layer, sizes: AttentionSizes) -> dict[int, bytes]:
    """Memory contents of a layer, with its descriptor."""
    descriptor = pack(JOB, JOB_BYTES, layer.job)
    return layer.images(sizes) | {DESCRIPTOR: descriptor + bytes(-len(descriptor) % sizes.beat_bytes)}


def wanted_reads(layer: Layer, sizes: AttentionSizes, result: JobResult) -> int:
    """Golden's beats, but a query for every tile of every row; and those of the descriptor, of records and mask."""
    job, beat = layer.job, sizes.beat_bytes
    size = row_bytes(job["head_size"], job["query_bits"])

    def query_beats(head: int, queries: range) -> int:
        return beats(job["q_addr"] + head * job["q_stride"], size, queries, beat)

    tiles = [(row, -(-row.keys // sizes.max_length)) for row in result.rows]
    single = sum(query_beats(row.head, range(row.query, row.query + 1)) * count for row, count in tiles)
    shared = sum(query_beats(head, range(job["queries"])) for head in {row.head for row in result.rows})
    tables = -(-job["heads"] * RECORD_BYTES // beat) + (-(-job["keys"] // (8 * beat)) if job["masked"] else 0)
    return max(1, JOB_BYTES // beat) + tables + result.read_beats - shared + single


def check(name: str, layer: Layer, alive: int, tokens: list[int], **memory: object) -> JobResult:
    """Run a job on both; outputs, importance and traffic are the same. Gives what golden says."""
    sizes, core = SIZES.get(name, FULL), block(name)
    contents = images(layer, sizes)
    golden, image = AttentionEngine(sizes, Memory(contents)), Memory(contents)
    golden.importance.tokens[:] = tokens
    golden.importance.alive[:] = [alive >> head & 1 for head in range(sizes.max_heads)]
    result = golden.run(layer.job)
    core.clear()
    core.set_tokens(tokens)
    core.alive = alive
    run = core.run(DESCRIPTOR, image, **memory)
    assert not run.error
    out = layer.job["out_addr"], len(contents[layer.job["out_addr"]])
    assert image.read(*out) == golden.memory.read(*out)
    assert core.tokens() == golden.importance.tokens.tolist()
    assert core.heads() == golden.importance.heads.tolist()
    assert run.read_beats == wanted_reads(layer, sizes, result)
    return result


def check_cases(name: str, seed: int, cases: int, **choices: object) -> list[tuple[Layer, JobResult]]:
    """Random jobs, some of whose heads are gone, on a memory of any latency that stalls in many of them."""
    done = []
    for case in range(cases):
        rng = np.random.default_rng([seed, case])
        layer = random_job(rng, **choices)
        alive = int(rng.integers(16)) if rng.random() < 0.3 else 15
        tokens = rng.integers(0, 1 << 20, SIZES[name].max_length).tolist()
        print(f"case {case}: {layer.job}, alive {alive:04b}")
        done.append((layer, check(name, layer, alive, tokens, **core_support.timing(rng, case))))
    return done
