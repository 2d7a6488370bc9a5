"""What random programs do with the result of a product: vector work and stores."""

from hwgen.arch.commands import command
from hwgen.arch.isa import INTEGER, READS_X, READS_Z, Format, Opcode, Operation, Target
from models.machine_output import stored_shape
from sim.random.dependencies import Access
from sim.random.draft import Block, Draft
from sim.random.operands import PATTERNS

WIDE = (1 << 20) - 1
FORMS = (
    *((Format.FP32, 0), (Format.OPERAND, 0), (Format.OPERAND, 1)),
    *((Format.DENSE, 0), (Format.DENSE, 1), (Format.PACKED, 0), (Format.PACKED, 1)),
)
"""Formats of STORE, as they are and transposed."""


def vector(draft: Draft, block: Block) -> Block:
    """Append an operation on a block; returns where its result is."""
    choices = [code for code in Operation if code != Operation.CURVE or draft.arch.vector.curve_entries]
    operation = choices[draft.draw(0, len(choices) - 1)]
    names = "x" if operation in READS_X else "xyz" if operation in READS_Z else "xy"
    main = names[draft.draw(0, len(names) - 1)]
    fields = {"operation": operation, "relu": draft.draw(0, 1), "rows": block.rows, "words": block.words}
    fields |= {"shuffle": draft.draw(0, draft.arch.array.cols.bit_length() - 1)}
    if operation in INTEGER:
        fields |= {"shift": draft.draw(0, 31), "right": draft.draw(0, 1)}
    sources, reads = [], []
    for name in names:
        source = block if name == main else _source(draft, block)
        held = draft.chance(0.2)
        stride = source.stride if source.rows == block.rows else 0
        fields |= {f"{name}_addr": source.addr, f"{name}_stride": stride, f"{name}_hold": int(held)}
        sources.append((source, held))
        reads.append(source.access)
    d = block if draft.chance(0.5) else draft.place(block.rows, block.words)
    # The destination may be a source, but not lie over one in any other way.
    if any(d.access.overlaps(source.access) for source, held in sources if source != d or held):
        return block
    for name in "yz"[len(names) - 1 :]:
        fields |= draft.noise(**{f"{name}_addr": WIDE, f"{name}_stride": WIDE, f"{name}_hold": 1})
    if operation is Operation.CURVE:
        curve = _curve(draft)
        fields |= curve | {"shift": draft.draw(0, 8)}
        reads.append(Access("curve", curve["y_addr"], curve["y_addr"] + curve["y_stride"]))
    draft.add(Opcode.VECTOR, reads, [d.access], **fields, d_addr=d.addr, d_stride=d.stride)
    return d


def _curve(draft: Draft) -> dict[str, int]:
    """Place of a curve; mostly with some entries loaded, often all of them."""
    entries = draft.arch.vector.curve_entries
    size = 1 << draft.draw(1, min(6, entries.bit_length() - 1))
    first = draft.draw(0, entries // size - 1) * size
    if draft.chance(0.8):
        rows = draft.draw(1, 3)
        beats = size if draft.chance(0.5) else draft.draw(1, size)
        stride = draft.draw(0, (entries - first - beats) // rows)
        loaded = Access("curve", first, first + (rows - 1) * stride + beats)
        draft.load(Target.CURVE, first, stride, [loaded], rows=rows, beats=beats)
    return {"y_addr": first, "y_stride": size}


def _source(draft: Draft, block: Block) -> Block:
    """Another operand: the same block, one of its shape, or one row that is repeated; mostly with data in it."""
    if draft.chance(0.2):
        return block
    source = draft.place(1 if draft.chance(0.5) else block.rows, block.words)
    if draft.chance(0.8):
        draft.load_acc(source)
    return source


def store(draft: Draft, block: Block) -> None:
    """Append a store of the block, or of its first rows if the format wants a certain number of them."""
    array = draft.arch.array
    form, transpose = FORMS[draft.draw(0, len(FORMS) - 1)]
    if transpose and block.rows < array.cols:
        form, transpose = Format.FP32, 0
    fields = {"format": form, "transpose": transpose, "rows": block.rows, **_planes(draft, block)}
    if transpose:
        blocks = 1 if form is Format.OPERAND else draft.draw(1, block.rows // array.cols)
        fields["rows"] = blocks * array.cols
    fields |= _packing(draft, fields) if form is Format.PACKED else draft.noise(n=16, m=16)
    fields |= {"lanes": draft.draw(1, array.cols), "addr": block.addr, "stride": block.stride}
    rows, beats = stored_shape(command(Opcode.STORE, **fields), array)
    place, written = _target(draft, rows, fields["planes"], beats)
    if form is Format.PACKED:
        steps = [
            y * place["row_stride"] + p * place["plane_stride"] for p in range(fields["planes"]) for y in range(rows)
        ]
        draft.packed += [(place["dram_addr"] + step, beats, fields["m"]) for step in steps]
    draft.add(Opcode.STORE, [block.access], [written], **fields, **place)


def _planes(draft: Draft, block: Block) -> dict[str, int]:
    """Planes that the words of a row are cut into."""
    sizes = [size for size in range(1, block.words + 1) if block.words % size == 0]
    words = block.words if draft.chance(0.5) else sizes[draft.draw(0, len(sizes) - 1)]
    return {"words": words, "planes": block.words // words}


def _target(draft: Draft, rows: int, planes: int, beats: int) -> tuple[dict[str, int], Access]:
    """Address and strides of rows in planes, or planes in rows, upwards or downwards; and all that they lie in."""
    inner = beats + draft.draw(0, 2)
    outer = (rows if draft.chance(0.5) else planes) * inner + draft.draw(0, 2)
    row_stride, plane_stride = (inner, outer) if outer >= rows * inner else (outer, inner)
    beat = draft.arch.beat_bytes
    size = ((rows - 1) * row_stride + (planes - 1) * plane_stride + beats) * beat
    address = draft.allocate(size)
    draft.stored.append((address, size))
    first, step = address, plane_stride * beat
    if draft.chance(0.5):
        first, step = address + (planes - 1) * step, -step
    place = {"dram_addr": first, "row_stride": row_stride * beat, "plane_stride": step}
    return place, Access("dram", address, address + size)


def _packing(draft: Draft, fields: dict[str, int]) -> dict[str, int]:
    """Pattern of a packed store, and the rows that it goes into; the known patterns are the likeliest."""
    length = fields["words"] * draft.arch.array.cols
    sizes = [m for m in range(1, draft.arch.array.group_max + 1) if m <= fields["rows"] or fields["transpose"]]
    sizes = [m for m in sizes if length % m == 0 or not fields["transpose"]]
    known = [pattern for pattern in PATTERNS if pattern is not None and pattern[1] in sizes]
    if known and draft.chance(0.7):
        n, m = known[draft.draw(0, len(known) - 1)]
    else:
        m = sizes[draft.draw(0, len(sizes) - 1)]
        n = draft.draw(1, m)
    rows = fields["rows"] if fields["transpose"] else fields["rows"] // m * m
    return {"n": n, "m": m, "rows": rows}
