"""Memory images of weights: round trips, a layout written out by hand, and refusals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwgen.arch import UserError
from models.packing import (
    fp32_bytes,
    fp32_from_bytes,
    matrix_bytes,
    matrix_from_bytes,
    pack_weights,
    unpack_weights,
)
from models.sparsity import nm_mask
from tests.models.support import arch

TINY, TINY2 = arch("tiny"), arch("tiny2")
ARCHES = [TINY, TINY2, arch("tiny", lanes=4)]


@st.composite
def tiles(draw):
    """An architecture, a weight matrix with many zeros of both signs, and keyword arguments of `pack_weights`."""
    chosen = draw(st.sampled_from(ARCHES))
    tile_cols = draw(st.integers(1, 5))
    shape = (draw(st.integers(1, 40)), draw(st.integers(1, tile_cols * chosen.array.cols)))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    bits = rng.choice(np.array([0, 0x8000, 1, 0x3C00, 0xFFFF], dtype=np.uint16), shape)
    if draw(st.booleans()):
        return chosen, bits, {"tile_cols": tile_cols}
    m = draw(st.integers(1, 16))
    n = draw(st.integers(1, m))
    mask = nm_mask(rng.standard_normal(shape), n, m, axis=0)
    return chosen, bits, {"tile_cols": tile_cols, "n": n, "m": m, "mask": mask}


@settings(derandomize=True, deadline=None, max_examples=200)
@given(tiles())
def test_unpacking_gives_the_kept_weights_back(case):
    chosen, bits, arguments = case
    tile = pack_weights(bits, chosen, **arguments)
    unpacked = unpack_weights(tile)
    expected = np.where(arguments.get("mask", True), bits, 0)
    assert (unpacked[: bits.shape[0], : bits.shape[1]] == expected).all()
    assert not unpacked[bits.shape[0] :].any()
    assert not unpacked[:, bits.shape[1] :].any()


@settings(derandomize=True, deadline=None, max_examples=100)
@given(tiles())
def test_shapes_and_sizes_of_images(case):
    chosen, bits, arguments = case
    lanes, cols = chosen.array.lanes, chosen.array.cols
    tile = pack_weights(bits, chosen, **arguments)
    size = arguments.get("m", lanes)
    words_per_group = -(-arguments["n"] // lanes) if "n" in arguments else 1
    assert (tile.group_size, tile.groups) == (size, -(-bits.shape[0] // size))
    assert tile.words == tile.groups * words_per_group * tile.tile_cols
    assert tile.values.shape == (tile.words, lanes, cols)
    assert len(tile.value_bytes()) == tile.words * lanes * chosen.beat_bytes
    if "n" in arguments:
        assert tile.indices.max() < size
        assert len(tile.index_bytes()) == -(-tile.words // (4 // lanes)) * chosen.beat_bytes


def test_dense_layout_by_hand():
    # 3 x 6 weights, two lanes, two blocks of 4 columns: group 0 is rows 0 and 1, group 1 is row 2 and padding.
    bits = (np.arange(3)[:, None] * 16 + np.arange(6)).astype(np.uint16)
    tile = pack_weights(bits, TINY2, tile_cols=2)
    assert tile.values.tolist() == [
        [[0x00, 0x01, 0x02, 0x03], [0x10, 0x11, 0x12, 0x13]],
        [[0x04, 0x05, 0, 0], [0x14, 0x15, 0, 0]],
        [[0x20, 0x21, 0x22, 0x23], [0, 0, 0, 0]],
        [[0x24, 0x25, 0, 0], [0, 0, 0, 0]],
    ]
    assert tile.value_bytes()[:16].hex() == "00000100020003001000110012001300"
    assert tile.indices is None


def test_sparse_layout_by_hand():
    # The example of models/README.md: 2:4, one column of 8 weights kept at 1, 3 and 4, on one lane and 4 columns.
    column = np.array([0, 0x3C00, 0, 0x4000, 0x4200, 0, 0, 0], dtype=np.uint16)[:, None]
    tile = pack_weights(column, TINY, tile_cols=1, n=2, m=4)
    assert tile.values[:, 0, 0].tolist() == [0x3C00, 0x4000, 0x4200, 0]
    assert tile.indices[:, 0, 0].tolist() == [1, 3, 0, 0]
    assert tile.value_bytes().hex() == "003c000000000000004000000000000000420000000000000000000000000000"
    assert tile.index_bytes().hex() == "0100030000000000"


def test_index_image_with_two_lanes():
    # Kept at 0, 2 and 7 of 8 in every column: slots 0, 2 in word 0 and 7, free in word 1; one beat holds both words.
    column = np.zeros((8, 4), dtype=np.uint16)
    column[[0, 2, 7]] = 0x3C00
    tile = pack_weights(column, TINY2, tile_cols=1, n=3, m=8)
    assert tile.indices[:, :, 0].tolist() == [[0, 2], [7, 0]]
    # Word 0: lane 0 is four nibbles 0, lane 1 four nibbles 2; word 1: lane 0 four nibbles 7, lane 1 zeros.
    assert tile.index_bytes().hex() == "0000222277770000"


def test_masked_zero_weight_is_stored():
    mask = np.array([[False], [True], [True], [False]])
    tile = pack_weights(np.zeros((4, 1), np.uint16), TINY, tile_cols=1, n=2, m=4, mask=mask)
    assert tile.indices[:, 0, 0].tolist() == [1, 2]


def test_group_with_too_many_weights_is_refused():
    bits = np.zeros((8, 3), dtype=np.uint16)
    bits[4:7, 2] = 0x3C00
    with pytest.raises(UserError, match=r"^group 1 of column 2 keeps 3 weights, but 2:4 allows 2$"):
        pack_weights(bits, TINY, tile_cols=1, n=2, m=4)


@pytest.mark.parametrize(
    ("shape", "arguments", "message"),
    [
        ((8, 5), {"tile_cols": 1}, r"5 columns do not fit tile_cols=1 blocks of 4 \(at most 16 blocks\)"),
        ((8, 5), {"tile_cols": 17}, r"5 columns do not fit tile_cols=17 blocks of 4 \(at most 16 blocks\)"),
        ((0, 5), {"tile_cols": 2}, r"weights must be a non-empty uint16 matrix, not uint16 of shape \(0, 5\)"),
        ((8, 5), {"tile_cols": 2, "n": 2}, "N:M packing needs both n and m, dense packing neither of them nor a mask"),
        ((8, 5), {"tile_cols": 2, "n": 5, "m": 4}, r"N:M must satisfy 1 <= N <= M <= 16 \(array.group_max\), not 5:4"),
        (
            (8, 5),
            {"tile_cols": 2, "n": 2, "m": 32},
            r"N:M must satisfy 1 <= N <= M <= 16 \(array.group_max\), not 2:32",
        ),
        (
            (8, 5),
            {"tile_cols": 2, "n": 2, "m": 4, "mask": np.ones((8, 4), bool)},
            r"mask must have the shape of the weights \(8, 5\), not \(8, 4\)",
        ),
    ],
)
def test_bad_tiles_are_refused(shape, arguments, message):
    with pytest.raises(UserError, match=f"^{message}$"):
        pack_weights(np.zeros(shape, np.uint16), TINY, **arguments)


def test_dense_tile_has_no_index_image():
    with pytest.raises(UserError, match=r"^a dense tile has no indices to load$"):
        pack_weights(np.ones((4, 4), np.uint16), TINY, tile_cols=1).index_bytes()


@pytest.mark.parametrize("row_units", [None, 5])
def test_matrix_images_round_trip(row_units):
    rng = np.random.default_rng(3)
    operands = rng.integers(0, 1 << 16, (5, 14), dtype=np.uint16)
    image = matrix_bytes(operands, TINY, row_units)
    assert len(image) == 5 * (row_units or 4) * TINY.beat_bytes
    assert (matrix_from_bytes(image, TINY, 5, 14, row_units) == operands).all()
    wide = rng.integers(0, 1 << 32, (5, 14), dtype=np.uint32)
    image = fp32_bytes(wide, TINY, row_units)
    assert len(image) == 5 * (row_units or 4) * 2 * TINY.beat_bytes
    assert (fp32_from_bytes(image, TINY, 5, 14, row_units) == wide).all()


def test_matrix_row_is_filled_with_zeros():
    image = matrix_bytes(np.array([[1, 2], [3, 4]], np.uint16), TINY)
    assert image.hex() == "01000200000000000300040000000000"


def test_row_that_does_not_fit_is_refused():
    with pytest.raises(UserError, match=r"^a row of 9 values needs 3 units of 4 values, 2 are given$"):
        matrix_bytes(np.zeros((1, 9), np.uint16), TINY, 2)
    with pytest.raises(UserError, match=r"^an image of 2 x 3 values must have 16 bytes, not 8$"):
        matrix_from_bytes(bytes(8), TINY, 2, 3)
