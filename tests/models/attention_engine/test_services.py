"""Jobs beside attention against NumPy sorting, PyTorch and the quantiser of the algorithm."""

import numpy as np
import pytest
import torch

from hwgen.arch import UserError
from hwgen.arch.attention import PLANE_BITS, QUERY_BITS, AttentionSizes
from hwgen.arch.services import SERVICES, Job, Key, Score, pack_service
from models.attention import quantize as algorithm
from models.attention_engine.engine import Importance
from models.attention_engine.planes import join, row_bytes, unpack_plane
from models.attention_engine.services import run_service
from models.formats import CORNERS_BF16, CORNERS_FP16
from models.memory import Memory

SIZES = AttentionSizes(max_length=256, max_heads=12)
BASES = {"steps_addr": 1, "index_addr": 2, "src_addr": 3, "msb_addr": 4, "low_addr": 5, "dst_addr": 6}
BASES |= {"value_addr": 7, "protect_addr": 8}
BASES = {name: number << 20 for name, number in BASES.items()}


def fields_of(job, **values):
    """Fields of a descriptor: addresses as in BASES, others their lowest value."""
    return {item.name: BASES.get(item.name, item.low) for item in SERVICES[job]} | values


def run(job, importance=None, operand="fp16", contents=None, **values):
    """The memory after a job; it starts as zeros."""
    fields = fields_of(job, **values)
    memory = Memory(10 << 20)
    memory.write(0, pack_service(job, fields))
    for address, data in (contents or {}).items():
        memory.write(address, data)
    run_service(SIZES, memory, job, 0, Importance.empty(SIZES) if importance is None else importance, operand)
    return memory


def indices(memory, count):
    """The index list, and what is behind it."""
    data = np.frombuffer(memory.read(BASES["index_addr"], 2 * count + 2), "<u2").tolist()
    assert data[-1] == 0
    return data[:-1]


def operands(rng, shape, operand):
    """Values as bit patterns and as PyTorch sees them; every corner value is among them."""
    values = torch.from_numpy(rng.normal(0, 2, shape)).to(torch.float16 if operand == "fp16" else torch.bfloat16)
    corners = np.array(CORNERS_FP16 if operand == "fp16" else CORNERS_BF16, np.uint16).view(np.int16)
    bits = values.view(torch.int16)
    bits.view(-1)[: len(corners)] = torch.from_numpy(corners)
    return bits.numpy(), values


def plane(memory, address, rows, size, bits):
    """Elements of a head."""
    return unpack_plane(memory.read(address, rows * row_bytes(size, bits)), rows, size, bits)


@pytest.mark.parametrize("operand", ["fp16", "bf16"])
def test_quantize(operand, seed):
    """Integers of both planes are those of the algorithm; heads that no living one needs keep what was there."""
    for case in range(40):
        rng = np.random.default_rng([seed, case])
        group, rows, size = int(rng.choice([1, 2, 5])), int(rng.integers(1, 30)), 16 * int(rng.integers(1, 9))
        heads = int(rng.integers(1, 12 // group + 1))
        split = int(rng.integers(2))
        bits = int(rng.choice(PLANE_BITS if split else QUERY_BITS))
        whole = bits + 4 * split
        source, values = operands(rng, (rows, heads, size), operand)
        steps = torch.from_numpy(rng.uniform(0.001, 1, heads).astype(np.float32))
        importance = Importance.empty(SIZES)
        importance.alive[:] = rng.random(12) < 0.7
        stride = heads * size * 2 + 4 * int(rng.integers(3))
        padded = np.zeros((rows, stride), np.uint8)
        padded[:, : heads * size * 2] = source.reshape(rows, -1).view(np.uint8)
        strides = {"msb": rows * row_bytes(size, bits) + 4, "low": rows * row_bytes(size, 4) + 8}
        memory = run(
            Job.QUANTIZE,
            importance,
            operand,
            {BASES["src_addr"]: padded.tobytes(), BASES["steps_addr"]: (1 / steps).numpy().tobytes()},
            rows=rows, heads=heads, group=group, head_size=size, bits=bits, split=split,
            src_stride=stride, msb_stride=strides["msb"], low_stride=strides["low"],
        )  # fmt: skip

        for head in range(heads):
            integers = plane(memory, BASES["msb_addr"] + head * strides["msb"], rows, size, bits)
            if not any(importance.alive[query] for query in range(12) if query // group == head):
                assert not integers.any()
                continue
            if split:
                lows = plane(memory, BASES["low_addr"] + head * strides["low"], rows, size, 4)
                integers = join(integers, lows)
            wanted = algorithm.quantize(values[:, head], steps[head], whole).numpy()
            finite = ~torch.isnan(values[:, head]).numpy()
            np.testing.assert_array_equal(integers[finite], wanted[finite])
            assert not integers[~finite].any()
        assert not memory.read(BASES["low_addr"], 8).strip(b"\0") or split


def test_select_tokens(seed):
    """Sorting by hand: protected ones, lower index first, then importance, then the lower index."""
    for case in range(200):
        rng = np.random.default_rng([seed, case])
        length = int(rng.integers(1, 257))
        keep, first = int(rng.integers(1, length + 1)), int(rng.choice([0, 1, 3, length]))
        compact, dropped = ((0, 0), (1, 0), (0, 1))[rng.integers(3)]
        bits = rng.random(256) < 0.1
        protected = int(rng.integers(2))
        importance = Importance.empty(SIZES)
        importance.tokens[:] = rng.choice([0, 5, 2**32 - 2, int(rng.integers(100))], 256) + 0
        before = importance.tokens.tolist()
        memory = run(
            Job.SELECT, importance, contents={BASES["protect_addr"]: np.packbits(bits, bitorder="little").tobytes()},
            score=Score.TOKENS, length=length, keep=keep, first=first, protected=protected, compact=compact,
            dropped=dropped,
        )  # fmt: skip
        safe = [j < first or (protected and bits[j]) for j in range(length)]
        kept = sorted(sorted(range(length), key=lambda j: (not safe[j], 0 if safe[j] else -before[j], j))[:keep])
        gone = sorted(set(range(length)) - set(kept))
        assert indices(memory, keep if not dropped else length - keep) == (gone if dropped else kept)
        after = [before[j] for j in kept] + [0] * (256 - keep) if compact else before
        assert importance.tokens.tolist() == after
        assert importance.alive.all()


def test_select_heads(seed):
    for case in range(200):
        rng = np.random.default_rng([seed, case])
        length, dropped = int(rng.integers(1, 13)), int(rng.integers(2))
        keep = int(rng.integers(1, length + 1))
        importance = Importance.empty(SIZES)
        importance.heads[:] = rng.choice([0, 7, 2**32 - 2], 12)
        importance.alive[:] = alive = rng.random(12) < rng.choice([0, 0.5, 1])
        memory = run(Job.SELECT, importance, score=Score.HEADS, length=length, keep=keep, dropped=dropped)
        there = [h for h in range(length) if alive[h]]
        kept = sorted(sorted(there, key=lambda h: (-importance.heads[h], h))[:keep])
        gone = [h for h in range(length) if h not in kept]
        assert np.flatnonzero(importance.alive).tolist() == kept
        listed = gone if dropped else kept
        assert indices(memory, len(listed)) == listed


def test_gather(seed):
    for case in range(40):
        rng = np.random.default_rng([seed, case])
        rows, beats = int(rng.integers(1, 20)), int(rng.integers(1, 5))
        source = rng.integers(0, 256, (40, 64 * (beats + 1)), np.uint8)
        picked = rng.integers(0, 40, rows)
        contents = {BASES["src_addr"]: source.tobytes(), BASES["index_addr"]: picked.astype("<u2").tobytes()}
        stride = 64 * (beats + int(rng.integers(2)))
        memory = run(
            Job.GATHER, contents=contents, rows=rows, row_beats=beats, src_stride=64 * (beats + 1), dst_stride=stride
        )
        copy = memory.read_rows(BASES["dst_addr"], rows, 64 * beats, stride)
        np.testing.assert_array_equal(copy, source[picked, : 64 * beats])
        assert memory.read(BASES["dst_addr"] + rows * stride, 64) == bytes(64)


@pytest.mark.parametrize("key", Key)
def test_top_k(key, seed):
    """The values that PyTorch finds, and those of lower index among equal ones; NaN is the largest."""
    specials = np.array([0, -0.0, np.inf, -np.inf, np.nan, 1, -1], np.float32)
    for case in range(200):
        rng = np.random.default_rng([seed, case])
        length = int(rng.integers(1, 257))
        k = int(rng.choice([0, 1, length, rng.integers(length + 1)]))
        values = rng.normal(size=length).astype(np.float32)
        values[rng.random(length) < 0.3] = rng.choice(specials)
        memory = run(Job.TOPK, contents={BASES["src_addr"]: values.tobytes()}, key=key, length=length, k=k)
        kept = indices(memory, k)
        assert kept == sorted(set(kept))
        taken = np.frombuffer(memory.read(BASES["value_addr"], 4 * k), np.float32)
        assert taken.tobytes() == values[kept].tobytes()
        ranked = torch.from_numpy(np.abs(values) if key == Key.MAGNITUDE else values)
        largest = torch.topk(ranked, k).values
        torch.testing.assert_close(ranked[kept].sort(descending=True).values, largest, rtol=0, atol=0, equal_nan=True)
        for j in set(range(length)) - set(kept):
            same = [i for i in kept if ranked[i] == ranked[j] or (ranked[i].isnan() and ranked[j].isnan())]
            assert all(i < j for i in same)


def test_reset():
    importance = Importance.empty(SIZES)
    importance.tokens[:], importance.heads[:], importance.alive[3] = 5, 9, False
    run_service(SIZES, Memory(64), Job.RESET, 0, importance)
    assert importance.alive.all()
    assert not importance.heads.any()
    assert (importance.tokens == 5).all()


def test_importance_comes_back(seed):
    """What SAVE writes is what the engine knew; RESTORE brings back any of it, and clears the rest."""
    rng = np.random.default_rng(seed)
    importance = Importance.empty(SIZES)
    importance.tokens[:] = known = rng.integers(0, 1 << 32, 256)
    memory = run(Job.SAVE, importance, length=200)
    saved = np.frombuffer(memory.read(BASES["dst_addr"], 4 * 201), "<u4")
    assert saved.tolist() == [*known[:200].tolist(), 0]
    run(Job.RESTORE, importance, length=100, contents={BASES["src_addr"]: saved[100:200].tobytes()})
    assert importance.tokens.tolist() == known[100:200].tolist() + [0] * 156
    assert importance.alive.all()


def test_heads_that_are_alive_come_back():
    importance = Importance.empty(SIZES)
    importance.alive[11] = False
    run(Job.RESTORE, importance, score=Score.HEADS, length=10, contents={BASES["src_addr"]: b"\x05\x0e"})
    assert np.flatnonzero(importance.alive).tolist() == [0, 2, 9]


@pytest.mark.parametrize(
    ("job", "change", "text"),
    [
        (Job.SAVE, {"length": 257}, "SAVE: length must be at most 256, not 257"),
        (Job.RESTORE, {"length": 13, "score": Score.HEADS}, "RESTORE: length must be at most 12, not 13"),
        (Job.QUANTIZE, {"rows": 0}, "rows must be in 1..65535, not 0"),
        (Job.QUANTIZE, {"heads": 13}, "QUANTIZE: heads x group must be at most 12, not 13"),
        (Job.QUANTIZE, {"heads": 5, "group": 3}, "QUANTIZE: heads x group must be at most 12, not 15"),
        (Job.QUANTIZE, {"head_size": 24}, "QUANTIZE: head_size must be a multiple of 16, not 24"),
        (Job.QUANTIZE, {"bits": 5}, "QUANTIZE: bits must be one of 4, 6, 8, 10, 12, 14, 16, not 5"),
        (Job.QUANTIZE, {"bits": 14, "split": 1}, "QUANTIZE: bits must be one of 4, 6, 8, 10, 12, not 14"),
        (Job.QUANTIZE, {"msb_addr": 2}, "QUANTIZE: msb_addr must be a multiple of 4, not 0x2"),
        (Job.QUANTIZE, {"steps_addr": 4}, "QUANTIZE: steps_addr must be a multiple of 64, not 0x4"),
        (Job.SELECT, {"length": 257}, "SELECT: length must be at most 256, not 257"),
        (Job.SELECT, {"length": 13, "score": Score.HEADS}, "SELECT: length must be at most 12, not 13"),
        (Job.SELECT, {"keep": 2}, r"SELECT: keep \(2\) must be at most length \(1\)"),
        (Job.SELECT, {"first": 1, "score": Score.HEADS}, "SELECT: first, protected and compact must be 0 for HEADS"),
        (Job.SELECT, {"compact": 1, "dropped": 1}, "SELECT: compact and dropped exclude each other"),
        (Job.GATHER, {"dst_stride": 8}, "GATHER: dst_stride must be a multiple of 64, not 0x8"),
        (Job.TOPK, {"length": 300}, "TOPK: length must be at most 256, not 300"),
        (Job.TOPK, {"k": 2}, r"TOPK: k \(2\) must be at most length \(1\)"),
    ],
)
def test_bad_descriptors(job, change, text):
    """One sentence, and nothing has changed."""
    word = place = 0
    for item in SERVICES[job]:
        word |= (fields_of(job) | change)[item.name] << place
        place += item.width
    memory, importance = Memory({0: word.to_bytes(64, "little")}), Importance.empty(SIZES)
    with pytest.raises(UserError, match=text):
        run_service(SIZES, memory, job, 0, importance)
    assert importance.alive.all()


def test_bad_calls():
    importance = Importance.empty(SIZES)
    with pytest.raises(UserError, match=r"must be one of QUANTIZE \(1\), .*, RESTORE \(7\), not 0"):
        run_service(SIZES, Memory(64), Job.ATTENTION, 0, importance)
    with pytest.raises(UserError, match="TOPK: the descriptor must be at a multiple of 64, not 0x20"):
        run_service(SIZES, Memory(128), Job.TOPK, 0x20, importance)
