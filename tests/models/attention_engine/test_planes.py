"""Quantising and planes against plain Python integers and torch's rounding."""

import random

import numpy as np
import pytest
import torch

from hwgen.arch import UserError
from hwgen.arch.attention import PLANE_BITS
from models.attention_engine.planes import beats, join, middle, pack_plane, quantize, row_bytes, split, unpack_plane


@pytest.mark.parametrize("bits", [4, 8, 10, 16])
def test_quantize_rounds_to_even_and_saturates(bits, seed):
    rng, limit = np.random.default_rng(seed), (1 << bits - 1) - 1
    values = np.concatenate([rng.normal(0, 30, 500), [0.5, 1.5, -0.5, -2.5, 1e30, -1e30, 0.0]]).astype(np.float32)
    wanted = torch.round(torch.from_numpy(values) * torch.tensor(0.7)).clamp(-limit, limit).long()
    assert quantize(values, np.float32(0.7), bits).tolist() == wanted.tolist()


def test_quantize_gives_numbers_for_everything():
    values = np.array([np.nan, np.inf, -np.inf, 3e38], dtype=np.float32)
    assert quantize(values, np.float32(10), 8).tolist() == [0, 127, -127, 127]


@pytest.mark.parametrize("bits", PLANE_BITS)
def test_planes_hold_every_integer(bits):
    limit = 1 << bits + 3
    integers = np.arange(-limit, limit)
    msb, low = split(integers)
    assert (msb.min(), msb.max(), low.min(), low.max()) == (-(1 << bits - 1), (1 << bits - 1) - 1, -8, 7)
    assert (join(msb, low) == integers).all()
    assert (np.abs(middle(msb) - integers) <= 8).all()


@pytest.mark.parametrize("bits", [*PLANE_BITS, 14, 16])
@pytest.mark.parametrize("head_size", [16, 48, 128])
def test_images_are_bits_in_a_row(bits, head_size, seed):
    source = random.Random(seed)
    rows = [[source.randrange(-(1 << bits - 1), 1 << bits - 1) for _ in range(head_size)] for _ in range(3)]
    number = sum((value % (1 << bits)) << bits * place for place, value in enumerate(np.ravel(rows).tolist()))
    image = pack_plane(np.array(rows), bits)
    assert image == number.to_bytes(3 * row_bytes(head_size, bits), "little")
    assert unpack_plane(image, 3, head_size, bits).tolist() == rows


def test_bad_planes_are_refused():
    with pytest.raises(UserError, match=r"elements of a plane of 4 bits must be in -8..7"):
        pack_plane(np.full((1, 16), 8), 4)
    with pytest.raises(UserError, match="rows of 8 elements of 6 bits"):
        pack_plane(np.zeros((1, 8), np.int64), 6)
    with pytest.raises(UserError, match="must have 48 bytes, not 47"):
        unpack_plane(bytes(47), 1, 64, 6)


def test_beats_are_counted_once(seed):
    source = random.Random(seed)
    for _ in range(200):
        size, beat = source.choice([8, 12, 48, 64, 80, 192]), source.choice([16, 64, 512])
        address = 4 * source.randrange(100)
        rows = sorted(source.sample(range(60), source.randrange(1, 60)))
        touched = {(address + row * size + byte) // beat for row in rows for byte in range(size)}
        assert beats(address, size, np.array(rows), beat) == len(touched)
    assert beats(0, 48, np.array([], dtype=np.int64), 64) == 0
