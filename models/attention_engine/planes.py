"""Linear symmetric integers in two planes: quantising, splitting, packing.

Rows of D elements follow one another without padding; element 0 is in the lowest bits of the first byte. Elements of
both planes are two's complement: an integer k is 16 msb + 8 + low, -8 <= low <= 7, so that the MSBs alone stand for
the middle of their interval.
"""

import numpy as np
from numpy.typing import NDArray

from hwgen.arch.attention import ADDRESS_ALIGN, LOW_BITS
from hwgen.arch.errors import UserError

HALF = 1 << LOW_BITS - 1


def quantize(values: NDArray[np.float32], inverse: np.float32, bits: int) -> NDArray[np.int64]:
    """Integers of `bits` bits: value x inverse in FP32, to nearest even, between -(2^(bits-1) - 1) and its negative.

    Infinities saturate, NaN gives 0.
    """
    limit = (1 << bits - 1) - 1
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = values.astype(np.float32) * np.float32(inverse)
    return np.nan_to_num(np.clip(np.rint(scaled), -limit, limit), nan=0.0).astype(np.int64)


def split(integers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """MSB plane and LSB plane, both signed."""
    return integers >> LOW_BITS, (integers & (1 << LOW_BITS) - 1) - HALF


def join(msb: NDArray[np.int64], low: NDArray[np.int64]) -> NDArray[np.int64]:
    """The integers of two planes."""
    return (msb << LOW_BITS) + HALF + low


def middle(msb: NDArray[np.int64]) -> NDArray[np.int64]:
    """What MSBs stand for without LSBs."""
    return (msb << LOW_BITS) + HALF


def row_bytes(head_size: int, bits: int) -> int:
    """Bytes of a row of a plane."""
    return head_size * bits // 8


def pack_plane(elements: NDArray[np.int64], bits: int) -> bytes:
    """Image of a plane `[rows, D]`. Raises `UserError` for elements that do not fit or rows of odd length."""
    if (elements < -(1 << bits - 1)).any() or (elements >= 1 << bits - 1).any():
        raise UserError(f"elements of a plane of {bits} bits must be in {-(1 << bits - 1)}..{(1 << bits - 1) - 1}")
    if elements.shape[-1] * bits % (8 * ADDRESS_ALIGN):
        raise UserError(
            f"rows of {elements.shape[-1]} elements of {bits} bits are no whole {8 * ADDRESS_ALIGN}-bit words"
        )
    places = np.arange(bits)
    return np.packbits((elements[..., None] >> places & 1).astype(np.uint8).reshape(-1), bitorder="little").tobytes()


def unpack_plane(data: bytes, rows: int, head_size: int, bits: int) -> NDArray[np.int64]:
    """Elements `[rows, D]` out of an image. Raises `UserError` on a wrong length."""
    if len(data) != rows * row_bytes(head_size, bits):
        raise UserError(f"a plane of {rows} rows must have {rows * row_bytes(head_size, bits)} bytes, not {len(data)}")
    every = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little").reshape(rows, head_size, bits)
    unsigned = (every.astype(np.int64) << np.arange(bits)).sum(axis=-1)
    return unsigned - ((unsigned >> bits - 1) << bits)


def beats(address: int, size: int, rows: NDArray[np.integer] | range, beat_bytes: int) -> int:
    """Memory beats that hold the given rows (ascending) of a plane at `address`, rows of `size` bytes."""
    starts = address + np.asarray(rows, dtype=np.int64) * size
    if not len(starts):
        return 0
    first, last = starts // beat_bytes, (starts + size - 1) // beat_bytes
    shared = np.concatenate([[0], first[1:] <= last[:-1]])
    return int((last - first + 1 - shared).sum())
