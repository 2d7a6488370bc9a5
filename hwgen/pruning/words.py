"""Sizes of a top-k engine, and the words that travel between its parts."""

from dataclasses import dataclass

from amaranth.hdl import ShapeLike, Value
from amaranth.lib import data

WIDTHS = (1, 2, 4, 8, 16, 32)
"""Elements a cycle that the components of this folder can be built for."""


@dataclass(frozen=True, kw_only=True)
class TopKSizes:
    """What a top-k engine is built for.

    width : elements a cycle, one of `WIDTHS`. bits : of an unsigned score, 2 to 64.
    max_length : longest vector, `width` to 65,536.
    """

    width: int = 16
    bits: int = 12
    max_length: int = 1024

    def __post_init__(self) -> None:
        if self.width not in WIDTHS:
            raise ValueError(f"top-k width must be one of {', '.join(map(str, WIDTHS))}, not {self.width!r}")
        if not 2 <= self.bits <= 64:
            raise ValueError(f"top-k bits must be between 2 and 64, not {self.bits!r}")
        if not self.width <= self.max_length <= 1 << 16:
            raise ValueError(
                f"top-k max_length must be between width ({self.width}) and 65536, not {self.max_length!r}"
            )

    @property
    def depth(self) -> int:
        """Words of the longest vector."""
        return -(-self.max_length // self.width)

    @property
    def address_bits(self) -> int:
        """Bits of a word's number."""
        return max(1, (self.depth - 1).bit_length())

    @property
    def count_bits(self) -> int:
        """Bits of a length or a k."""
        return self.max_length.bit_length()

    @property
    def index_bits(self) -> int:
        """Bits of an element's index."""
        return (self.max_length - 1).bit_length()

    @property
    def word_bits(self) -> int:
        """Bits of a word of scores."""
        return self.width * self.bits


class Command(data.StructLayout):
    """One call: elements that follow, and how many of them to keep."""

    def __init__(self, sizes: TopKSizes) -> None:
        super().__init__({"length": sizes.count_bits, "k": sizes.count_bits})


class Found(data.StructLayout):
    """What a selector found out: keep scores above `threshold`, and the first `ties` of those equal to it.

    length : elements of the vector, 0 with `error`.
    """

    def __init__(self, sizes: TopKSizes) -> None:
        super().__init__(
            {"threshold": sizes.bits, "ties": sizes.count_bits, "length": sizes.count_bits, "error": 1},
        )


class Element(data.StructLayout):
    """An element of a vector: where it was, and its score."""

    def __init__(self, sizes: TopKSizes) -> None:
        super().__init__({"index": sizes.index_bits, "score": sizes.bits})


class SparseBeat(data.StructLayout):
    """`width` items of which those in `mask` count; `last`: the sequence ends; `error` goes with `last`."""

    def __init__(self, shape: ShapeLike, width: int) -> None:
        super().__init__({"items": data.ArrayLayout(shape, width), "mask": width, "last": 1, "error": 1})


class DenseBeat(data.StructLayout):
    """Items of lanes 0 to `count` - 1, other lanes undefined; `last`: the sequence ends; `error` goes with `last`."""

    def __init__(self, shape: ShapeLike, width: int) -> None:
        super().__init__(
            {"items": data.ArrayLayout(shape, width), "count": width.bit_length(), "last": 1, "error": 1},
        )


def present(left: Value, width: int) -> list[Value]:
    """For each lane: it holds an element, when `left` elements are left."""
    return [left > lane for lane in range(width)]
