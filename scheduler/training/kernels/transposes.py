"""Matrices in external memory, transposed: STORE turns blocks of C rows as they leave the accumulators."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hwgen.arch.isa import Format, Target
from scheduler.training.kernels.emitter import Emitter, Feature
from scheduler.training.kernels.rows import touched

Axis = tuple[int, int, int]
"""Positions, words from one to the next in the source, and in the target."""


@dataclass(frozen=True)
class Matrix:
    """Rows of a matrix in a feature map: the first word, words from one row to the next."""

    feature: Feature
    start: int
    step: int


def transpose(em: Emitter, source: Matrix, target: Matrix, rows: int, words: int) -> None:
    """Column c of `source` (`rows` rows of `words` words) becomes row c of `target`, for all columns of the words.

    Rows of the target are filled up with zeros to whole words. Each word goes through LOAD and STORE once.
    """
    cols = em.arch.array.cols
    width = max(1, em.limit(1) // cols)
    for first in range(0, rows, cols):
        for left in range(0, words, width):
            em.begin_chunk()
            _turn(
                em,
                Matrix(source.feature, source.start + first * source.step + left, source.step),
                Matrix(target.feature, target.start + left * cols * target.step + first // cols, target.step),
                min(cols, rows - first),
                min(width, words - left),
            )


def _turn(em: Emitter, source: Matrix, target: Matrix, rows: int, words: int) -> None:
    """At most C rows."""
    cols, beat = em.arch.array.cols, em.arch.beat_bytes
    block = em.take(cols, words)
    em.load(
        Target.ACC16,
        block.addr,
        touched(em, source.feature, source.start, source.step, (rows, words)),
        block.region,
        rows=1,
        planes=rows,
        beats=words,
        pad=(cols - rows) * words,
        dram_addr=source.feature.address + source.start * beat,
        plane_stride=source.step * beat,
    )
    writes = touched(em, target.feature, target.start, target.step, (words * cols, 1))
    address = target.feature.address + target.start * beat
    em.store(block, address, target.step * beat, writes, Format.OPERAND, transpose=1)


@dataclass(frozen=True)
class Turn:
    """A copy of matrices that are transposed: for each position of `axes` one of [rows, columns].

    Steps are in words, from row to row in the source and from column to column in the target.
    """

    axes: tuple[Axis, ...]
    rows: int
    columns: int
    row_step: int
    column_step: int


def transpose_all(em: Emitter, source: Feature, target: Feature, turn: Turn) -> None:
    """Transpose matrices of whole words."""
    words = turn.columns // em.arch.array.cols
    for old, new in positions(turn.axes, (0, 0)):
        places = Matrix(source, old, turn.row_step), Matrix(target, new, turn.column_step)
        transpose(em, *places, turn.rows, words)


def positions(axes: Sequence[Axis], start: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Words of source and target for each position of the outer axes."""
    if not axes:
        yield start
        return
    count, source, target = axes[0]
    for number in range(count):
        yield from positions(axes[1:], (start[0] + number * source, start[1] + number * target))
