"""Cycles of a TENSOR instruction in closed form, as `hwgen/array/engine.py` has them when nothing else holds it up."""

from math import ceil

from hwgen.arch.config import Array

MARGIN = 0.03
"""Share by which weight stationary must be cheaper to be taken: the array runs empty when the dataflow changes."""


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

    `rows` x K x `cols` cycles, but no less than the weights of the next instruction take to enter, nor, if sums are
    `continued`, than a sum takes through all array rows.
    """
    beats = cols if words == 1 else max(cols, array.chain_latency)
    stream = rows * max(words * beats, ceil(group / array.act_width))
    hop = (words - 1) * beats + array.chain_latency + 1
    return max(stream, array.rows * words * cols, array.rows * hop if continued else 0)
