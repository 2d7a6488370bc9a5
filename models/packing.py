"""Memory images of weights, matrices and biases, laid out as hwgen/arch/ISA.md says LOAD and TENSOR read them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwgen.arch import Arch, UserError
from models.formats import decode
from models.sparsity import nm_mask

INDICES_PER_BYTE = 2
QUAD = 4
"""Slots of packed columns that share a beat of indices."""


@dataclass(frozen=True, kw_only=True)
class PackedTile:
    """One column tile of weights: word `(g*K + j)*tile_cols + ic` belongs to group `g`, word `j`, column block `ic`."""

    group_size: int
    """Values of the reduction that a group stands for: `m`, or `lanes` when dense."""
    groups: int
    """Groups along the reduction, the last one filled up with zeros."""
    words_per_group: int
    """K of ISA.md: weight words of a group in each column block."""
    tile_cols: int
    values: NDArray[np.uint16]
    """Operands, `[words, lanes, C]`."""
    indices: NDArray[np.uint8] | None
    """Index within the group of every value, `[words, lanes, C]`; None when dense."""

    @property
    def words(self) -> int:
        """Weight words of the tile: groups x words_per_group x tile_cols."""
        return self.values.shape[0]

    def value_bytes(self) -> bytes:
        """Image for LOAD WGT: `lanes` beats a word, lane 0 first."""
        return self.values.astype("<u2").tobytes()

    def index_bytes(self) -> bytes:
        """Image for LOAD IDX: 4-bit indices, 4/lanes words a beat, filled with zero words to a whole beat.

        Raises `UserError` for a dense tile, which has no indices.
        """
        if self.indices is None:
            raise UserError("a dense tile has no indices to load")
        lanes = self.indices.shape[1]
        filled = np.pad(self.indices, [(0, -self.words % (4 // lanes)), (0, 0), (0, 0)])
        pairs = filled.reshape(-1, INDICES_PER_BYTE)
        return (pairs[:, 0] | pairs[:, 1] << 4).astype(np.uint8).tobytes()


def pack_weights(
    bits: NDArray[np.uint16],
    arch: Arch,
    *,
    tile_cols: int,
    n: int | None = None,
    m: int | None = None,
    mask: NDArray[np.bool_] | None = None,
) -> PackedTile:
    """Pack one column tile of a weight matrix.

    `bits` is `[K, S]` (reduction x outputs), operand bit patterns; `S <= tile_cols * array.cols`, the rest is +0.
    Dense (`n` and `m` None): groups of `lanes` values. N:M: groups of `m` values, of which those in `mask` (`[K, S]`)
    are stored in ascending index; free slots hold +0 with index 0. `mask` None keeps every weight that is not +0.

    Raises `UserError` on shapes that do not fit and when a group keeps more than `n` weights.
    """
    _check_tile(bits, arch, tile_cols, n, m, mask)
    size = arch.array.lanes if m is None else m
    wide = np.pad(bits, [(0, -bits.shape[0] % size), (0, tile_cols * arch.array.cols - bits.shape[1])])
    grouped = wide.reshape(-1, size, wide.shape[1])
    if n is None:
        return _tile(arch, size, tile_cols, grouped, None)
    kept = grouped != 0
    if mask is not None:
        kept = np.pad(mask, [(0, large - small) for large, small in zip(wide.shape, bits.shape)]).reshape(grouped.shape)
    _check_counts(kept, n, m)
    return _tile(arch, size, tile_cols, *_compact(grouped, kept, -(-n // arch.array.lanes) * arch.array.lanes))


def _compact(grouped: NDArray, kept: NDArray[np.bool_], slots: int) -> tuple[NDArray, NDArray]:
    """Kept weights of `[groups, size, columns]` and their indices, ascending, as `[groups, slots, columns]`."""
    # A stable sort of "not kept" brings the kept ones to the front and leaves their order alone.
    order = np.argsort(~kept, axis=1, kind="stable")[:, :slots]
    order = np.pad(order, [(0, 0), (0, slots - order.shape[1]), (0, 0)])
    stored = np.arange(slots)[None, :, None] < kept.sum(axis=1)[:, None, :]
    return np.where(stored, np.take_along_axis(grouped, order, axis=1), 0), np.where(stored, order, 0)


def unpack_weights(tile: PackedTile) -> NDArray[np.uint16]:
    """Bit patterns `[groups*group_size, tile_cols*C]` of a tile, pruned weights +0: the inverse of `pack_weights`."""
    values = _slots(tile, tile.values)
    if tile.indices is None:
        return values.reshape(-1, values.shape[2])
    indices = _slots(tile, tile.indices).astype(np.int64)
    dense = np.zeros((tile.groups, tile.group_size, values.shape[2]), dtype=np.uint16)
    # Free slots carry +0 at index 0: "or" lets a real weight at index 0 win over them.
    for slot in range(values.shape[1]):
        place = indices[:, slot : slot + 1]
        merged = np.take_along_axis(dense, place, axis=1) | values[:, slot : slot + 1]
        np.put_along_axis(dense, place, merged, axis=1)
    return dense.reshape(-1, values.shape[2])


def column_beats(arch: Arch, depth: int, n: int | None = None, m: int | None = None) -> int:
    """Beats that a column block of `depth` weights a column takes: dense, or packed to n:m."""
    if m is None:
        return depth
    lanes = arch.array.lanes
    slots = -(-depth // m) * -(-n // lanes) * lanes
    return -(-slots // QUAD) * (QUAD + 1)


def dense_columns(bits: NDArray[np.uint16], arch: Arch) -> bytes:
    """Image for LOAD COLS of weights `[K, S]`, as STORE DENSE writes it: K beats for each block of C columns."""
    wide = np.pad(bits, [(0, 0), (0, -bits.shape[1] % arch.array.cols)])
    blocks = wide.reshape(len(wide), -1, arch.array.cols).transpose(1, 0, 2)
    return blocks.astype("<u2").tobytes()


def from_dense_columns(data: bytes, arch: Arch, depth: int, columns: int) -> NDArray[np.uint16]:
    """Weights `[depth, columns]` out of an image made by `dense_columns`; raises `UserError` on a wrong length."""
    blocks = _column_blocks(data, arch, columns, depth)
    return blocks.transpose(1, 0, 2).reshape(depth, -1)[:, :columns]


def packed_columns(bits: NDArray[np.uint16], arch: Arch, n: int, m: int) -> bytes:
    """Image for LOAD PACKED of weights `[K, S]`, as STORE PACKED writes it; a last group is filled up with +0.

    For each block of C columns: quads of four beats of slots and a beat of their indices.
    `nm_mask` chooses the weights, and refuses those that are not finite.
    """
    wide = np.pad(bits, [(0, -bits.shape[0] % m), (0, -bits.shape[1] % arch.array.cols)])
    mask = nm_mask(decode(wide, arch.array.operand), n, m, axis=0)
    starts = range(0, wide.shape[1], arch.array.cols)
    blocks = [slice(start, start + arch.array.cols) for start in starts]
    return b"".join(
        _quads(pack_weights(wide[:, block], arch, tile_cols=1, n=n, m=m, mask=mask[:, block])) for block in blocks
    )


def from_packed_columns(data: bytes, arch: Arch, depth: int, columns: int, n: int, m: int) -> NDArray[np.uint16]:
    """Weights `[depth, columns]`, pruned ones +0, out of an image made by `packed_columns`; `UserError` as above."""
    blocks = _column_blocks(data, arch, columns, column_beats(arch, depth, n, m))
    weights = np.zeros((-(-depth // m) * m, len(blocks) * arch.array.cols), dtype=np.uint16)
    slots = -(-n // arch.array.lanes) * arch.array.lanes
    for (block, beat, lane), value in np.ndenumerate(blocks):
        quad, place = divmod(beat, QUAD + 1)
        group, slot = divmod(QUAD * quad + place, slots)
        if place < QUAD and slot < n and group * m < depth:
            number = place * arch.array.cols + lane
            index = int(blocks[block, (QUAD + 1) * quad + QUAD, number // QUAD]) >> 4 * (number % QUAD) & 15
            weights[group * m + index, block * arch.array.cols + lane] = value
    return weights[:depth, :columns]


def _column_blocks(data: bytes, arch: Arch, columns: int, beats: int) -> NDArray[np.uint16]:
    """An image as `[column block, beat, C]`."""
    count = -(-columns // arch.array.cols)
    if len(data) != count * beats * arch.beat_bytes:
        expected = f"{count} blocks of {beats} beats must have {count * beats * arch.beat_bytes} bytes"
        raise UserError(f"an image of {expected}, not {len(data)}")
    return np.frombuffer(data, dtype="<u2").reshape(count, beats, arch.array.cols).astype(np.uint16)


def _quads(tile: PackedTile) -> bytes:
    """Slots of a tile of one column block, four by four with their indices; the last four are filled with zeros."""
    slots, cols = tile.words * tile.values.shape[1], tile.values.shape[2]
    fill = [(0, -slots % QUAD), (0, 0)]
    values = np.pad(tile.values.reshape(slots, cols), fill)
    indices = np.pad(tile.indices.reshape(slots, cols), fill)
    image = []
    for start in range(0, len(values), QUAD):
        pairs = indices[start : start + QUAD].reshape(-1, INDICES_PER_BYTE)
        image.append(values[start : start + QUAD].astype("<u2").tobytes())
        image.append((pairs[:, 0] | pairs[:, 1] << 4).astype(np.uint8).tobytes())
    return b"".join(image)


def matrix_bytes(array: NDArray[np.uint16], arch: Arch, row_beats: int | None = None) -> bytes:
    """Row-major image of operand bit patterns `[rows, cols]`; each row is filled with zeros to `row_beats` beats.

    Without `row_beats` a row takes as many beats as it needs. Raises `UserError` if a row is longer.
    """
    return _rows_to_bytes(array.astype("<u2"), arch.array.cols, row_beats)


def matrix_from_bytes(
    data: bytes, arch: Arch, rows: int, cols: int, row_beats: int | None = None
) -> NDArray[np.uint16]:
    """Operand bit patterns `[rows, cols]` out of an image made by `matrix_bytes` or written by STORE OPERAND."""
    return _rows_from_bytes(data, np.dtype("<u2"), arch.array.cols, rows, cols, row_beats).astype(np.uint16)


def fp32_bytes(array: NDArray[np.uint32], arch: Arch, row_words: int | None = None) -> bytes:
    """Row-major image of FP32 bit patterns `[rows, cols]`, for LOAD ACC32 (a bias is one row).

    Each row is filled with zeros to `row_words` words of `array.cols` values (two beats); as many as needed if None.
    """
    return _rows_to_bytes(array.astype("<u4"), arch.array.cols, row_words)


def fp32_from_bytes(data: bytes, arch: Arch, rows: int, cols: int, row_words: int | None = None) -> NDArray[np.uint32]:
    """FP32 bit patterns `[rows, cols]` out of an image made by `fp32_bytes` or written by STORE FP32."""
    return _rows_from_bytes(data, np.dtype("<u4"), arch.array.cols, rows, cols, row_words).astype(np.uint32)


def _rows_to_bytes(array: NDArray[np.integer], unit: int, units: int | None) -> bytes:
    cols = array.shape[1]
    needed = -(-cols // unit)
    units = needed if units is None else units
    if units < needed:
        raise UserError(f"a row of {cols} values needs {needed} units of {unit} values, {units} are given")
    return np.pad(array, [(0, 0), (0, units * unit - cols)]).tobytes()


def _rows_from_bytes(
    data: bytes, dtype: np.dtype, unit: int, rows: int, cols: int, units: int | None
) -> NDArray[np.integer]:
    units = -(-cols // unit) if units is None else units
    expected = rows * units * unit * dtype.itemsize
    if len(data) != expected or units * unit < cols:
        raise UserError(f"an image of {rows} x {cols} values must have {expected} bytes, not {len(data)}")
    return np.frombuffer(data, dtype=dtype).reshape(rows, units * unit)[:, :cols]


def _tile(
    arch: Arch, size: int, tile_cols: int, values: NDArray[np.integer], indices: NDArray[np.integer] | None
) -> PackedTile:
    lanes, cols = arch.array.lanes, arch.array.cols
    groups, slots, _ = values.shape

    def words(slotted: NDArray[np.integer], dtype: type) -> NDArray:
        split = slotted.reshape(groups, slots // lanes, lanes, tile_cols, cols)
        return np.ascontiguousarray(split.transpose(0, 1, 3, 2, 4).reshape(-1, lanes, cols).astype(dtype))

    return PackedTile(
        group_size=size,
        groups=groups,
        words_per_group=slots // lanes,
        tile_cols=tile_cols,
        values=words(values, np.uint16),
        indices=None if indices is None else words(indices, np.uint8),
    )


def _slots(tile: PackedTile, words: NDArray) -> NDArray:
    """Words `[words, lanes, C]` as `[groups, slots, columns]`."""
    _, lanes, cols = words.shape
    split = words.reshape(tile.groups, tile.words_per_group, tile.tile_cols, lanes, cols)
    return split.transpose(0, 1, 3, 2, 4).reshape(tile.groups, tile.words_per_group * lanes, tile.tile_cols * cols)


def _check_tile(bits: NDArray, arch: Arch, tile_cols: int, n: int | None, m: int | None, mask: NDArray | None) -> None:
    if bits.ndim != 2 or bits.dtype != np.uint16 or 0 in bits.shape:
        raise UserError(f"weights must be a non-empty uint16 matrix, not {bits.dtype} of shape {bits.shape}")
    if not 1 <= tile_cols <= arch.array.interleave_max or bits.shape[1] > tile_cols * arch.array.cols:
        raise UserError(
            f"{bits.shape[1]} columns do not fit tile_cols={tile_cols} blocks of {arch.array.cols} "
            f"(at most {arch.array.interleave_max} blocks)"
        )
    if (n is None) != (m is None) or (n is None and mask is not None):
        raise UserError("N:M packing needs both n and m, dense packing neither of them nor a mask")
    if n is not None and not 1 <= n <= m <= arch.array.group_max:
        raise UserError(f"N:M must satisfy 1 <= N <= M <= {arch.array.group_max} (array.group_max), not {n}:{m}")
    if mask is not None and mask.shape != bits.shape:
        raise UserError(f"mask must have the shape of the weights {bits.shape}, not {mask.shape}")


def _check_counts(kept: NDArray[np.bool_], n: int, m: int) -> None:
    counts = kept.sum(axis=1)
    if (counts > n).any():
        group, column = (int(i) for i in np.argwhere(counts > n)[0])
        raise UserError(
            f"group {group} of column {column} keeps {counts[group, column]} weights, but {n}:{m} allows {n}"
        )
