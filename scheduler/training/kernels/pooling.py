"""Maximum and average pooling. Forward, windows are taken along the height, then along the width: image rows at
different places of the windows lie in different banks, so that two are read at a time. Backward, first along the width.
"""

from hwgen.arch.isa import Operation
from scheduler.training.graph.base import Window
from scheduler.training.kernels.emitter import Block, Emitter, Feature
from scheduler.training.kernels.pieces import Piece, pieces

COPY, ADD, SUB, MUL, MAC = Operation.COPY, Operation.ADD, Operation.SUB, Operation.MUL, Operation.MAC
MAX, EQUAL = Operation.MAX, Operation.EQUAL
MINUS_INFINITY = 0xFF800000


def max_pool(em: Emitter, x: Feature, y: Feature, window: Window) -> None:
    """Largest value of each window. Passes over x with a kernel k of stride s: (k - 1) / s + (k - 1) / s**2; the latter
    are read from one bank, the first of them in twice the time.
    """
    for piece in pieces(em, x, y, window, 2):
        piece.store(piece.values, _pooled(piece, MAX, MINUS_INFINITY))


def avg_pool(em: Emitter, x: Feature, y: Feature, window: Window) -> None:
    """Sum of each window over the area of the kernel. Passes over x: those of `max_pool` and 1 / s**2."""
    share = 1.0 / (window.kernel[0] * window.kernel[1])
    for piece in pieces(em, x, y, window, 2):
        total = _pooled(piece, ADD, 0.0)
        piece.store(piece.values, em.vector(MUL, total, total, share))


def max_pool_grad(em: Emitter, gradient: Feature, x: Feature, dx: Feature, window: Window) -> None:
    """Add each window's gradient to its first largest value in order (ky, kx), as PyTorch does.

    The maxima of each window's rows and of the windows are computed again; the gradient goes to the first row whose
    maximum is the window's, then to the first pixel whose value is the row's. Passes over x with k = s = 2: 2.25, with
    k = 3 and s = 2: about 6, and more the fewer rows fit a piece.
    """
    for piece in pieces(em, x, gradient, window, 3, overlap=True):
        values = piece.load(piece.pixels, MINUS_INFINITY)
        g = piece.load(piece.values, 0.0)
        row_maxima, maxima = _reduced(piece, MAX, values)
        row_g = piece.take_slots(apart=g)
        places = piece.down(row_maxima)[: window.kernel[0]], piece.down(row_g)
        _to_first(em, places[0], piece.lines(maxima), piece.lines(g), places[1], window.stride[0])
        values, row_maxima, row_g = (piece.kept_part(block) for block in (values, row_maxima, row_g))
        d = piece.take(piece.kept(dx), apart=row_g)
        places = piece.across(values)[: window.kernel[1]], piece.across(d)
        _to_first(em, places[0], row_maxima, row_g, places[1], window.stride[1])
        piece.store(piece.kept(dx), d)


def avg_pool_grad(em: Emitter, gradient: Feature, dx: Feature, window: Window) -> None:
    """Add each window's gradient over the kernel's area to all its pixels. Passes over dx: (k / s)**2 + k / s**2."""
    share = 1.0 / (window.kernel[0] * window.kernel[1])
    for piece in pieces(em, dx, gradient, window, 2, overlap=True):
        g = piece.load(piece.values, 0.0)
        row_g = piece.take_slots(apart=g)
        _to_all(em, piece.lines(g), piece.down(row_g), (window.kernel[0], window.stride[0]), 1.0)
        d = piece.take(piece.kept(dx), apart=row_g)
        _to_all(em, piece.kept_part(row_g), piece.across(d), (window.kernel[1], window.stride[1]), share)
        piece.store(piece.kept(dx), d)


def _pooled(piece: Piece, operation: Operation, fill: float | int) -> Block:
    """A value for each window of a piece, which it loads."""
    phases = piece.load_phases(piece.pixels, fill)
    columns = piece.take_lines(apart=phases)
    _combine(piece.em, operation, columns, piece.down_phases(phases))
    result = piece.take(piece.values, apart=columns)
    pixels = columns.reshape(result.rows * piece.window.stride[1], result.words)
    _combine(piece.em, operation, result, piece.across(pixels)[: piece.window.kernel[1]])
    return result


def _reduced(piece: Piece, operation: Operation, values: Block) -> tuple[Block, Block]:
    """Along the width (a value for each slot and window in it), and along the height too (a value for each window)."""
    rows = piece.take_slots(apart=values)
    _combine(piece.em, operation, rows, piece.across(values)[: piece.window.kernel[1]])
    result = piece.take(piece.values, apart=rows)
    _combine(piece.em, operation, piece.lines(result), piece.down(rows)[: piece.window.kernel[0]])
    return rows, result


def _combine(em: Emitter, operation: Operation, d: Block, places: list[Block]) -> None:
    """`d = places[0] operation places[1] ..`; rows of `d` that a place lacks belong to windows that do not exist."""
    total, others = places[0], places[1:]
    if not others:
        em.vector(COPY, d, total)
    for place in others:
        part = d.part(0, place.rows)
        em.vector(operation, part, total.part(0, place.rows), place)
        total = d


def _to_first(em: Emitter, values: list[Block], maxima: Block, g: Block, targets: list[Block], stride: int) -> None:
    """Hand each window's `g` to the first place whose value is its maximum; what the others get is 0. Spends `g`.

    Each place takes its part from what is left, and the last one takes the rest. Targets below the stride are set,
    those beyond belong to two windows and are added to, those after the kernel become 0.
    """
    last = len(values) - 1
    spare = em.take(g.rows, g.words, apart=g) if last >= stride else g
    if last == 0:
        em.vector(COPY, targets[0], g)
    for place, value in enumerate(values[:-1]):
        left, target = g.part(0, value.rows), targets[place]
        mine = target if place < stride else spare.part(0, value.rows)
        em.vector(EQUAL, mine, value, maxima.part(0, value.rows), left)
        if place >= stride:
            em.vector(ADD, target, target, mine)
        final = place == last - 1 and last < stride
        em.vector(SUB, targets[last] if final else left, left, mine)
    if last >= stride:
        em.vector(ADD, targets[last], targets[last], g.part(0, targets[last].rows))
    for target in targets[last + 1 :]:
        em.vector(COPY, target, 0.0)


def _to_all(em: Emitter, g: Block, targets: list[Block], window: tuple[int, int], share: float) -> None:
    """Hand each window's `g * share` to all its places; targets as in `_to_first`. `window` is kernel and stride."""
    kernel, stride = window
    for place, target in enumerate(targets):
        part = g.part(0, target.rows)
        if place >= kernel:
            em.vector(COPY, target, 0.0)
        elif place < stride:
            em.vector(MUL, target, part, share)
        else:
            em.vector(MAC, target, part, share, target)
