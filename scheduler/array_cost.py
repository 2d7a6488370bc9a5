"""Cycles of a TENSOR instruction in closed form, as `hwgen/array/engine.py` has them when nothing else holds it up."""

from math import ceil

from hwgen.arch.config import Array

MARGIN = 0.03
"""Share by which weight stationary must be cheaper to be taken: the array runs empty when the dataflow changes."""
WRITE_STAGE = 4
"""Cycles from a finished sum at the south edge of the array to the one that continues it, about."""


def row_blocks(array: Array, group: int) -> int:
    """Most row blocks of an output-stationary tile: each needs a ring that holds a group of `group` values and more."""
    needed = group + 2 * array.act_width
    rings = (array.act_buffer // rows for rows in range(1, array.interleave_max + 1))
    return sum(1 << (ring.bit_length() - 1) >= needed for ring in rings if ring)


def output_stationary(array: Array, *, group: int, words: int, groups: int, rows: int, cols: int) -> int:
    """Cycles of a tile of `rows` x `cols` result words over `groups` groups of `words` weight words.

    Each weight word takes a cycle for each sum of an element, but no less than the adder chain; the feeders hand over
    `act_width` values a cycle. The sums of the tile before drain meanwhile.
    """
    tile_rows = ceil(rows / array.rows)
    feed = tile_rows * ceil(group / array.act_width)
    compute = groups * max(words * max(tile_rows * cols, array.chain_latency), feed)
    return max(compute, ceil(rows / array.drain) * cols)


def weight_stationary(array: Array, *, group: int, words: int, rows: int, cols: int, continued: bool) -> int:
    """Cycles of a tile of `rows` x `cols` result words over the groups that the array holds.

    Of the K weight words of a row each takes `cols` cycles, all but the last no less than the adder chain. The weights
    of the next instruction enter meanwhile, and if sums are `continued`, the first one must have been written.
    """
    beats = max(cols, array.chain_latency)
    stream = rows * max((words - 1) * beats + cols, ceil(group / array.act_width))
    hop = (words - 1) * beats + array.chain_latency + 1
    passing = array.rows * hop + array.cols + WRITE_STAGE
    return max(stream, array.rows * words * cols, passing if continued else 0)


def parts(total: int, size: int) -> list[tuple[int, int]]:
    """How `total` is cut into pieces of `size`: sizes, each with its number; the last piece may be smaller."""
    whole, rest = divmod(total, size)
    return [(length, count) for length, count in ((size, whole), (rest, 1)) if length and count]
