"""Values on their way from one place of external memory to another: strided copies, and what they make of moves."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hwgen.arch import UserError
from hwgen.arch.isa import Format
from scheduler.training.kernels.emitter import Emitter, Feature
from scheduler.training.kernels.rows import touched
from scheduler.training.kernels.transposes import Axis, Turn, positions
from scheduler.training.memory import Row


@dataclass(frozen=True)
class Copy:
    """`words` neighbouring words for each position of `axes`, the outermost first.

    `start` are the first words of source and target.
    """

    axes: tuple[Axis, ...]
    words: int
    start: tuple[int, int] = (0, 0)

    def merged(self) -> "Copy":
        """The same with as few axes as possible."""
        axes: list[Axis] = []
        for count, source, target in (axis for axis in self.axes if axis[0] > 1):
            if axes and axes[-1][1:] == (count * source, count * target):
                axes[-1] = (axes[-1][0] * count, source, target)
            else:
                axes.append((count, source, target))
        words = self.words
        if axes and axes[-1][1:] == (words, words):
            words *= axes.pop()[0]
        return Copy(tuple(axes), words, self.start)


def copy(em: Emitter, source: Feature | Row, target: Feature, moves: Copy) -> None:
    """LOAD and STORE every word once; values of a channel vector are rounded."""
    moves = moves.merged()
    *outer, (count, source_step, target_step) = moves.axes or ((1, 0, 0),)
    limit = em.limit(1)
    width = min(moves.words, limit)
    rows = min(count, limit // width)
    for source_word, target_word in positions(outer, moves.start):
        for first in range(0, count, rows):
            for word in range(0, moves.words, width):
                size = min(rows, count - first), min(width, moves.words - word)
                places = source_word + first * source_step + word, target_word + first * target_step + word
                _piece(em, (source, target), places, (source_step, target_step), size)


def _piece(
    em: Emitter,
    sides: tuple[Feature | Row, Feature],
    places: tuple[int, int],
    steps: tuple[int, int],
    size: tuple[int, int],
) -> None:
    """One LOAD and one STORE of rows and words."""
    em.begin_chunk()
    beat, (source, target) = em.arch.beat_bytes, sides
    wide = isinstance(source, Row)
    block = em.take(*size)
    address = source.address + places[0] * beat * (2 if wide else 1)
    reads = source.region if wide else touched(em, source, places[0], steps[0], size)
    em.load_block(block, address, steps[0] * beat * (2 if wide else 1), reads, wide=wide)
    writes = touched(em, target, places[1], steps[1], size)
    em.store(block, target.address + places[1] * beat, steps[1] * beat, writes, Format.OPERAND)


def strides(shape: Sequence[int], cols: int) -> tuple[int, ...]:
    """Words from one position to the next along N, H and W."""
    words = -(-shape[3] // cols)
    return shape[1] * shape[2] * words, shape[2] * words, words


def whole_words(name: str, channels: int, cols: int) -> int:
    """Words of channels; raises `UserError` if they are not whole words."""
    if channels % cols:
        raise UserError(f"{name}: parts of {channels} channels can't move, only multiples of array.cols ({cols}) can")
    return channels // cols


def part(name: str, small: Sequence[int], large: Sequence[int], axis: int, start: int, cols: int) -> Copy:
    """A tensor as it lies in a larger one, from position `start` of an axis on: from the larger one to the smaller."""
    words = -(-small[3] // cols)
    if axis == 3:
        offset = whole_words(name, start, cols)
        if start + small[3] < large[3]:
            whole_words(name, small[3], cols)
    else:
        offset = start * strides(large, cols)[axis]
    axes = tuple(zip(small[:3], strides(large, cols), strides(small, cols)))
    return Copy(axes, words, (offset, 0))


def reverse(moves: Copy) -> Copy:
    """From the target to the source."""
    axes = tuple((count, target, source) for count, source, target in moves.axes)
    return Copy(axes, moves.words, moves.start[::-1])


def repeated(name: str, small: Sequence[int], large: Sequence[int], cols: int) -> Copy:
    """A tensor repeated along the axes of size 1."""
    if small[3] != large[3]:
        raise UserError(f"{name}: the array repeats pixels, images and rows, not channels")
    steps = [0 if old < new else step for old, new, step in zip(small, large, strides(small, cols))]
    return Copy(tuple(zip(large[:3], steps, strides(large, cols))), -(-small[3] // cols))


def permuted(
    name: str, shapes: Sequence[Sequence[int]], split: Sequence[int], order: Sequence[int], cols: int
) -> Copy | Turn:
    """The transposition of an array's dimensions as whole words, or as transpositions of matrices in its last two."""
    steps = [math.prod(split[place + 1 :]) for place in range(len(split))]
    wanted = [split[place] for place in order]
    goals = [math.prod(wanted[place + 1 :]) for place in range(len(wanted))]
    last, end = len(split) - 1, order[-1]
    source = [_in_words(name, step, split[last], shapes[0][3], cols) for step in steps[:-1]]
    target = [_in_words(name, step, wanted[last], shapes[1][3], cols) for step in goals[:-1]]
    if end == last:
        axes = tuple((split[place], source[place], target[number]) for number, place in enumerate(order[:-1]))
        return Copy(axes, -(-split[last] // cols))
    inner = list(order).index(last)
    whole_words(name, split[last], cols)
    outer = tuple(
        (split[place], source[place], target[number]) for number, place in enumerate(order[:-1]) if place != last
    )
    return Turn(outer, split[end], split[last], source[end], target[inner])


def _in_words(name: str, step: int, inner: int, channels: int, cols: int) -> int:
    """A step over values as words: rows of `inner` values, `channels` of them in a pixel."""
    if inner == channels:
        return step // inner * -(-inner // cols)
    whole_words(name, inner, cols)
    whole_words(name, channels, cols)
    return step // cols
