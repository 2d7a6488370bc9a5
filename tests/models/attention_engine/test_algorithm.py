"""The engine against the algorithm in PyTorch: same integers, same decisions, outputs that differ by roundings only."""

import numpy as np
import pytest
import torch

from hwgen.arch.attention import (
    KEEP_FRACTION,
    KeyMode,
    ValueMode,
    keep_share,
    key_limits,
    softmax_scale,
    sum_limit,
)
from models.attention import Quantization, Schedule
from models.attention.attention import Magnitudes, attend, scales
from models.attention.importance import head_addend, token_addend
from models.attention.quantize import SPLITS, quantize
from models.attention_engine import planes
from models.attention_engine.row import Plane, attend_row

HEADS, QUERIES, KEYS, SIZE = 2, 6, 40, 32
SCALING = SIZE**-0.5
VALUE_MODES = {"never": ValueMode.NEVER, "with_keys": ValueMode.WITH_KEYS, "always": ValueMode.ALWAYS}


def tensors(generator: torch.Generator) -> list[torch.Tensor]:
    """Queries, keys and values [1, heads, n, D]; queries of different sharpness."""
    sharpness = torch.exp(2 * torch.rand(1, HEADS, QUERIES, 1, generator=generator) - 1)
    query = torch.randn(1, HEADS, QUERIES, SIZE, generator=generator) * sharpness
    return [query, *(torch.randn(1, HEADS, KEYS, SIZE, generator=generator) for _ in range(2))]


def golden_rows(query, key, value, visible, quantization: Quantization, share: float, magnitudes: Magnitudes):
    """Rows of the engine for the same layer, head by head."""
    steps = [step[0, :, 0, 0].numpy() for step in scales(magnitudes, 1, quantization.bits)]
    job = {
        "key_mode": KeyMode.ROW if quantization.cutoff is None else KeyMode.KEY,
        "value_mode": VALUE_MODES[quantization.value_lsb],
        "key_margin": 16,
        "value_keep": keep_share(share),
    }
    for head in range(HEADS):
        q, k, v = (
            planes.quantize(tensor[0, head].numpy(), np.float32(1) / step[head], quantization.bits)
            for tensor, step in zip((query, key, value), steps)
        )
        scale = float(steps[0][head]) * float(steps[1][head]) * SCALING
        mantissa, exponent = softmax_scale(scale)
        gap, octave = key_limits(quantization.cutoff or 0.5, scale)
        record = {
            "scale_mantissa": mantissa,
            "scale_exponent": exponent,
            "value_scale": int(steps[2][head].view(np.uint32)),
            "sum_limit": sum_limit(quantization.threshold),
            "key_gap": gap,
            "key_octave": octave,
        }
        for row in range(QUERIES):
            seen = visible[0, 0, row].numpy()
            yield (
                head,
                row,
                seen,
                attend_row(q[row], Plane(*planes.split(k)), Plane(*planes.split(v)), seen, job, record, 64),
            )


def mask(places: np.ndarray) -> np.ndarray:
    result = np.zeros(KEYS, dtype=bool)
    result[places] = True
    return result


@pytest.mark.parametrize(("msb", "lsb"), SPLITS)
def test_integers_are_the_same(msb, lsb, seed):
    generator = torch.Generator().manual_seed(seed)
    values = 3 * torch.randn(4000, generator=generator)
    step = torch.tensor(0.01)
    wanted = quantize(values, step, msb + lsb)
    inverse = np.float32(1) / step.numpy()
    assert planes.quantize(values.numpy(), inverse, msb + lsb).tolist() == wanted.tolist()


@pytest.mark.parametrize(("msb", "lsb"), SPLITS)
@pytest.mark.parametrize("value_lsb", VALUE_MODES)
@pytest.mark.parametrize("cutoff", [None, 0.01])
def test_layers(msb, lsb, value_lsb, cutoff, seed):
    """The same LSBs (with a cutoff: at least these) and values but for rows on the edge; outputs within 2^-9."""
    generator = torch.Generator().manual_seed(seed + msb)
    quantization = Quantization(msb=msb, lsb=lsb, threshold=0.2, cutoff=cutoff, value_lsb=value_lsb)
    query, key, value = tensors(generator)
    visible = torch.rand(1, 1, QUERIES, KEYS, generator=generator) < 0.8
    magnitudes = Magnitudes(*(tensor.abs().amax((2, 3)) for tensor in (query, key, value)))
    options = {"values": (Schedule(shares=(0.6,)), 0), "quantization": quantization, "magnitudes": magnitudes}
    wanted = attend(query, key, value, visible, SCALING, **options)
    same = refined_rows = 0
    for head, row, seen, got in golden_rows(query, key, value, visible, quantization, 0.6, magnitudes):
        place = (0, head, row)
        refined, kept = mask(got.fetched.key_lows[0]) & seen, mask(got.fetched.values[0])
        assert (refined | ~wanted.lsb_keys[place].numpy()).all() or not refined.any()
        refined_rows += refined.any()
        if (refined != wanted.lsb_keys[place].numpy()).any() or (kept != wanted.values_kept[place].numpy()).any():
            continue
        same += 1
        assert np.abs(got.probabilities * 2.0**-16 - wanted.probabilities[place].numpy()).max() < 2**-12
        assert np.abs(got.output - wanted.output[place].numpy()).max() < 2**-9 * float(value.abs().max())
    rows = HEADS * QUERIES
    assert same >= (rows - 2 if cutoff is None else rows // 3)
    assert refined_rows > 0


def test_importance_is_in_the_same_units(seed):
    """Sums over the rows of a layer differ by roundings: one unit of 2^-16 for a probability, of 2^-8 for an output."""
    generator = torch.Generator().manual_seed(seed)
    quantization = Quantization(msb=8, lsb=4, threshold=2)
    query, key, value = tensors(generator)
    visible = torch.ones(1, 1, QUERIES, KEYS, dtype=torch.bool)
    magnitudes = Magnitudes(*(tensor.abs().amax((2, 3)) for tensor in (query, key, value)))
    wanted = attend(query, key, value, visible, SCALING, quantization=quantization, magnitudes=magnitudes)
    tokens, heads = np.zeros(KEYS), np.zeros(HEADS)
    for head, _, _, got in golden_rows(query, key, value, visible, quantization, 1, magnitudes):
        tokens += got.probabilities
        heads[head] += np.floor(np.abs(got.output).astype(float) * 256 + 0.5).sum()
    assert np.abs(tokens - token_addend(wanted.probabilities)[0].numpy()).max() <= 8 * HEADS * QUERIES
    assert np.abs(heads - head_addend(wanted.output)[0].numpy()).max() <= QUERIES * SIZE


def test_shares_give_the_same_counts(seed):
    """For every share of up to four decimals that a schedule can have, and every length of a row."""
    rng = np.random.default_rng(seed)
    for share in [*np.arange(1, 101) / 100, *rng.integers(1, 10_001, 300) / 10_000]:
        schedule = Schedule(shares=(float(share),))
        for keys in [1, 2, 3, *rng.integers(1, 1025, 20).tolist(), 1024]:
            assert -(-keys * keep_share(float(share)) >> KEEP_FRACTION) == schedule.count(0, keys)
