"""External memory of the golden machine: byte segments with gaps; an access to a gap is a bus error."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from hwgen.arch import UserError


class BusError(Exception):
    """An access to an address that no segment holds; `address` is the first such byte."""

    def __init__(self, address: int) -> None:
        super().__init__(f"no memory at address {address:#x}")
        self.address = address


class Memory:
    """Bytes at addresses.

    `contents` is a size in bytes (zeros from address 0) or a mapping from base address to initial bytes; the bytes are
    copied. Raises `UserError` if segments are empty, overlap or start below 0.
    """

    def __init__(self, contents: int | Mapping[int, bytes | NDArray[np.uint8]]) -> None:
        parts = {0: np.zeros(contents, dtype=np.uint8)} if isinstance(contents, int) else contents
        self._segments: list[tuple[int, NDArray[np.uint8]]] = []
        end = 0
        for base in sorted(parts):
            # A bytearray copy is writable, whatever was given.
            array = np.frombuffer(bytearray(parts[base]), dtype=np.uint8)
            if base < end or not len(array):
                raise UserError(
                    f"memory segment at {base:#x} of {len(array)} bytes is empty or overlaps the one before it"
                )
            self._segments.append((base, array))
            end = base + len(array)

    def read(self, address: int, size: int) -> bytes:
        """Read `size` bytes from `address`; raises `BusError`."""
        return b"".join(part.tobytes() for part in self._parts(address, size))

    def write(self, address: int, data: bytes | NDArray[np.uint8]) -> None:
        """Write `data` (bytes or a uint8 array) from `address`; raises `BusError` before anything is written."""
        source, done = np.frombuffer(data, dtype=np.uint8), 0
        for part in self._parts(address, len(source)):
            part[:] = source[done : done + len(part)]
            done += len(part)

    def read_rows(self, address: int, rows: int, size: int, stride: int) -> NDArray[np.uint8]:
        """Read `rows` rows of `size` bytes, `stride` bytes apart, as `[rows, size]`; raises `BusError`."""
        if not size:
            return np.zeros((rows, 0), dtype=np.uint8)
        extent = (rows - 1) * stride + size
        for base, array in self._segments:
            if base <= address and address + extent <= base + len(array):
                window = np.lib.stride_tricks.as_strided(
                    array[address - base :], (rows, size), (stride, 1), writeable=False
                )
                return window.copy()
        lines = [self.read(address + row * stride, size) for row in range(rows)]
        return np.frombuffer(b"".join(lines), dtype=np.uint8).reshape(rows, size)

    def _parts(self, address: int, size: int) -> list[NDArray[np.uint8]]:
        """Views that together are the `size` bytes from `address`."""
        parts = []
        for base, array in self._segments:
            if base <= address < base + len(array):
                part = array[address - base : address - base + size]
                parts.append(part)
                address, size = address + len(part), size - len(part)
        if size:
            raise BusError(address)
        return parts
