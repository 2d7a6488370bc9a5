"""Operands of random products: what a TENSOR instruction reads, and the loads that bring it there."""

from dataclasses import dataclass

from hwgen.arch.commands import command
from hwgen.arch.isa import Opcode, Target, Walk
from models.machine_walk import weight_words
from sim.random.dependencies import Access
from sim.random.draft import QUAD, SPARE, Draft

Pattern = tuple[int, int] | None
PATTERNS = ((1, 4), (2, 4), (2, 8), (4, 8), (2, 16), None, None, (3, 5), (1, 1), (7, 7), (5, 12))
"""N:M patterns that jobs draw from; None is dense."""


@dataclass(frozen=True)
class Operand:
    """Fields of a TENSOR instruction that say where an operand is, and what it reads of it."""

    fields: dict[str, int]
    reads: list[Access]


def draw_pattern(draft: Draft) -> Pattern:
    """A pattern that the architecture has room for."""
    usable = [p for p in PATTERNS if p is None or p[1] <= draft.arch.array.group_max]
    return usable[draft.draw(0, len(usable) - 1)]


def group_of(draft: Draft, pattern: Pattern) -> int:
    """Values of a group."""
    return draft.arch.array.lanes if pattern is None else pattern[1]


def words_of(draft: Draft, pattern: Pattern) -> int:
    """Weight words of a group in each column block."""
    return 1 if pattern is None else -(-pattern[0] // draft.arch.array.lanes)


def weights(draft: Draft, pattern: Pattern, groups: int, tile_cols: int, walk: Walk = Walk.NONE) -> Operand:
    """Load the weights of a tile."""
    fields = {"groups": groups, "tile_cols": tile_cols}
    if pattern is None:
        fields |= draft.noise(n=16, m=16)
    else:
        fields |= {"sparse": 1, "n": pattern[0], "m": pattern[1]}
    if walk is Walk.WGT:
        fields |= _windows(draft, groups, tile_cols)
    span = int(weight_words(command(Opcode.TENSOR, **fields), draft.arch.array).max()) + 1
    columns = draft.draw(1, 8) if walk is Walk.WGT else tile_cols
    addr = _load_weights(draft, pattern, span, columns)
    memories = ["wgt"] if pattern is None else ["wgt", "idx"]
    return Operand({**fields, "wgt_addr": addr}, [Access(memory, addr, addr + span) for memory in memories])


def _windows(draft: Draft, groups: int, tile_cols: int) -> dict[str, int]:
    """Fields of a walk over weights; windows may overlap."""
    steps = {
        "step": draft.draw(0, 2 * tile_cols),
        "run": draft.draw(1, groups + 1),
        "jump": draft.draw(0, 3 * tile_cols),
    }
    columns = {"col_step": draft.draw(0, 3), "col_run": draft.draw(1, min(16, tile_cols + 1))}
    return {"walk": Walk.WGT, **steps, **columns, "col_jump": draft.draw(0, 12)}


def _load_weights(draft: Draft, pattern: Pattern, span: int, columns: int) -> int:
    """Fill `span` words with weights, as words or in `columns` columns side by side; returns the first word."""
    lanes, target = draft.arch.array.lanes, _weight_target(draft, pattern)
    unit = 4 // lanes
    height = -(-span // columns)
    quads, index_words = -(-height // unit), -(-span // unit) * unit
    room = {Target.WGT: span, Target.COLS: height * columns, Target.PACKED: quads * unit * columns}[target]
    addr = draft.draw(0, (draft.arch.scratchpads.wgt_depth - max(room, index_words)) // unit) * unit
    loaded = [Access("wgt", addr, addr + room)]
    if target is Target.PACKED:
        loaded.append(Access("idx", addr, addr + room))
        draft.load(target, addr, columns, loaded, rows=columns, beats=QUAD * quads, group=pattern[1])
        return addr
    if target is Target.WGT:
        draft.load(target, addr, draft.draw(0, 9), loaded, beats=span * lanes)
    else:
        draft.load(target, addr, columns, loaded, rows=columns, beats=height * lanes)
    if pattern is not None:
        indices = [Access("idx", addr, addr + index_words)]
        draft.load(Target.IDX, addr, 0, indices, beats=index_words // unit, group=pattern[1])
    return addr


def _weight_target(draft: Draft, pattern: Pattern) -> Target:
    """How weights are loaded; often packed when there are packed columns that have been stored."""
    if pattern is None:
        return Target.COLS if draft.chance(0.5) else Target.WGT
    if draft.usable(pattern[1]) and draft.chance(0.5):
        return Target.PACKED
    return (Target.WGT, Target.COLS, Target.PACKED)[draft.draw(0, 2)]


def activations(draft: Draft, values: int, tile_rows: int, walk: Walk) -> Operand:
    """Load what an output-stationary tile reads: `values` along the reduction in each of `tile_rows` row blocks."""
    if walk is Walk.ACT:
        return _windows_of_activations(draft, values, tile_rows)
    words = -(-values // draft.arch.array.cols)
    stride = words + draft.draw(0, SPARE)
    extent = (tile_rows - 1) * stride + words
    addr = draft.draw(0, draft.arch.scratchpads.act_depth - extent)
    if draft.chance(0.7):
        rows = draft.draw(1, tile_rows * draft.arch.array.rows)
        loaded = Access("act", addr, addr + (rows - 1) // draft.arch.array.rows * stride + words)
        draft.load(Target.ACT_ROWS, addr, stride, [loaded], rows=rows, beats=words)
    else:
        fill_banks(draft, addr, extent)
    return Operand({"act_addr": addr, "act_stride": stride}, [Access("act", addr, addr + extent)])


def _windows_of_activations(draft: Draft, values: int, tile_rows: int) -> Operand:
    """A walk over activation words; row blocks may overlap, as the windows of a convolution do."""
    array = draft.arch.array
    unit = array.cols // array.act_width
    last = (values - 1) // array.act_width
    room = draft.arch.scratchpads.act_depth * unit - 1 - last
    run = draft.draw(1, last + 2)
    stride = draft.draw(0, min(40, room // 2 // max(1, tile_rows - 1)))
    jump = draft.draw(0, min(12, room // 2 // max(1, last // run)))
    end = (tile_rows - 1) * stride + last + last // run * jump
    addr = draft.draw(0, room + last - end)
    low, high = addr // unit, (addr + end) // unit + 1
    fill_banks(draft, low, high - low)
    fields = {"walk": Walk.ACT, "run": run, "jump": jump, "act_addr": addr, "act_stride": stride}
    return Operand(fields, [Access("act", low, high)])


def grouped_activations(draft: Draft, pattern: Pattern, rows: int) -> Operand:
    """Load activations of `rows` groups in each bank: in chunks of a group where that is possible, or otherwise."""
    group, array = group_of(draft, pattern), draft.arch.array
    extent = -(-rows * group // array.cols)
    addr = draft.draw(0, draft.arch.scratchpads.act_depth - extent)
    loaded = Access("act", addr, addr + extent)
    if group & (group - 1) or draft.chance(0.3):
        fill_banks(draft, addr, extent)
    else:
        beats = draft.draw(1, -(-array.rows * group // array.cols) + 2)
        fields = {"rows": rows, "beats": beats, "chunk_log2": group.bit_length() - 1}
        draft.load(Target.ACT_CHUNKS, addr, 0, [loaded], **fields)
    return Operand({"act_addr": addr}, [loaded])


def fill_banks(draft: Draft, addr: int, extent: int) -> None:
    """Load something into words `addr .. addr + extent - 1` of the banks: rows, or chunks in one or more rounds."""
    array, loaded = draft.arch.array, [Access("act", addr, addr + extent)]
    if draft.chance(0.4):
        draft.load(Target.ACT_ROWS, addr, extent, loaded, rows=draft.draw(1, array.rows), beats=extent)
        return
    log2 = draft.draw(0, min(6, (extent * array.cols).bit_length() - 1))
    rows = draft.draw(1, min(24, extent * array.cols >> log2))
    # A round over the banks takes whole beats, or not all of one.
    beats, words = (array.rows << log2) // array.cols, -(-(rows << log2) // array.cols)
    stride = draft.draw(0, extent) if beats else 0
    rounds = 1 + min(2, (extent - words) // stride) if stride else 1
    total = draft.draw(1, rounds * beats) if stride else draft.draw(1, beats + 2)
    draft.load(Target.ACT_CHUNKS, addr, stride, loaded, rows=rows, beats=total, chunk_log2=log2)


def most_groups(draft: Draft, pattern: Pattern, tile_rows: int, tile_cols: int) -> int:
    """Groups whose weights and activations fit; at most 24 sparse or 120 dense ones, to keep programs short."""
    pads, array = draft.arch.scratchpads, draft.arch.array
    by_weights = pads.wgt_depth // (32 * tile_cols)
    by_activations = (pads.act_depth // tile_rows - SPARE) * array.cols // group_of(draft, pattern)
    return max(1, min(24 if pattern else 120, by_weights, by_activations))


def ring_blocks(draft: Draft, patterns: list[Pattern]) -> int:
    """Row blocks whose rings hold the groups of all patterns."""
    array = draft.arch.array
    room = max(group_of(draft, pattern) for pattern in patterns) + 2 * array.act_width
    rings = [t for t in range(1, 17) if 1 << ((array.act_buffer // t).bit_length() - 1) >= room]
    return min(rings[-1], array.interleave_max)


def ignored_walk(draft: Draft, walk: Walk) -> dict[str, int]:
    """Values for the fields of walks that are not chosen."""
    fields = {} if walk is Walk.ACT else {"run": 4095, "jump": (1 << 18) - 1}
    return {} if walk is Walk.WGT else draft.noise(**fields, step=1023, col_step=255, col_run=16, col_jump=8191)


def choose_walk(draft: Draft) -> Walk:
    """Half of the products walk over nothing."""
    return (Walk.NONE, Walk.NONE, Walk.ACT, Walk.WGT)[draft.draw(0, 3)]
