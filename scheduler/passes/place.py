"""Pass 4: pack weights in the order in which tiles load them, and give everything an address in external memory."""

from collections.abc import Iterator
from dataclasses import replace
from math import ceil

from hwgen.arch import Arch, UserError
from hwgen.arch.isa import Format
from models.formats import fp32_bits
from models.packing import PackedTile, fp32_bytes, pack_weights
from scheduler.program import Port, Segment
from scheduler.state import Buffer, Chunk, Layer, Lowering, MemoryMap, Placement, Plan, Weights


def run(state: Lowering) -> Lowering:
    """Fill in `memory`. Raises `UserError` when it does not fit the address space, with the sizes."""
    layout = _Layout(state.arch)
    chunks = {layer.name: _place_weights(layout, state, layer) for layer in state.layers if layer.weight is not None}
    biases = {}
    for layer in state.layers:
        for step in layer.steps:
            if step.kind == "bias" and step.operand not in biases:
                row = fp32_bits(state.graph.constants[step.operand])[None, :]
                biases[step.operand] = layout.add(step.operand, "bias", fp32_bytes(row, state.arch))
    placements = _place_buffers(layout, state)
    memory = MemoryMap(tuple(layout.segments), placements, chunks, biases, layout.next)
    return replace(state, memory=memory)


def row_bytes(arch: Arch, buffer: Buffer) -> int:
    """Bytes of a row of a buffer, filled up to whole words."""
    return ceil(buffer.cols / arch.array.cols) * arch.beat_bytes * (2 if buffer.fp32 else 1)


class _Layout:
    """Gives out addresses in ascending order; everything is a whole number of beats."""

    def __init__(self, arch: Arch) -> None:
        self.arch = arch
        self.segments: list[Segment] = []
        self.next = 0

    def add(self, name: str, kind: str, data: bytes | int) -> int:
        """Append a segment with content, or of a size; returns its address."""
        address, size = self.next, data if isinstance(data, int) else len(data)
        self.next += size
        check_space(self.arch, self.next, f"{name} ({size:,} bytes)")
        self.segments.append(Segment(name, kind, address, size, None if isinstance(data, int) else data))
        return address


def check_space(arch: Arch, end: int, last: str) -> None:
    """Raise `UserError` if memory up to `end` bytes does not fit the address space."""
    space = 1 << arch.memory.address_bits
    if end > space:
        raise UserError(
            f"the program needs at least {end:,} bytes of memory up to {last}, but memory.address_bits "
            f"({arch.memory.address_bits}) reaches {space:,}"
        )


def _place_weights(layout: _Layout, state: Lowering, layer: Layer) -> dict[tuple[int, int], Chunk]:
    plan, weights = state.plans[layer.name], state.weights[layer.name]
    packed = dict(_pack(state.arch, plan, weights))
    name = f"{layer.name}.weight"
    values = layout.add(name, "weights", b"".join(tile.value_bytes() for tile in packed.values()))
    indices = layout.next
    if weights.pattern is not None:
        indices = layout.add(f"{name}.index", "indices", b"".join(tile.index_bytes() for tile in packed.values()))
    chunks = {}
    for place, tile in packed.items():
        chunks[place] = Chunk(values, indices, tile.words, tile.groups)
        values += len(tile.value_bytes())
        indices += len(tile.index_bytes()) if weights.pattern is not None else 0
    return chunks


def _pack(arch: Arch, plan: Plan, weights: Weights) -> Iterator[tuple[tuple[int, int], PackedTile]]:
    cols = weights.bits.shape[1]
    width = plan.tile_cols * arch.array.cols
    pattern = weights.pattern
    for col in range(plan.col_tiles):
        for step in range(plan.depth_tiles):
            part = slice(step * plan.depth_tile, (step + 1) * plan.depth_tile), slice(col * width, (col + 1) * width)
            tile_cols = ceil((min(cols, (col + 1) * width) - col * width) / arch.array.cols)
            yield (
                (col, step),
                pack_weights(
                    weights.bits[part],
                    arch,
                    tile_cols=tile_cols,
                    n=pattern.n if pattern else None,
                    m=pattern.m if pattern else None,
                    mask=weights.mask[part] if pattern else None,
                ),
            )


def _place_buffers(layout: _Layout, state: Lowering) -> dict[str, Placement]:
    results = {name for name, _ in state.results.values()}
    placements: dict[str, Placement] = {}
    for buffer in state.buffers.values():
        stride = row_bytes(state.arch, buffer)
        if buffer.base is not None:
            address = placements[buffer.base].address
        else:
            kind = "input" if buffer.source else "output" if buffer.name in results else "tensor"
            address = layout.add(buffer.name, kind, buffer.rows * stride)
        placements[buffer.name] = Placement(address, stride, buffer)
    return placements


def input_ports(state: Lowering) -> tuple[Port, ...]:
    """Where the inputs of the model go."""
    return tuple(
        _port(place.buffer.source, place, state.graph.tensors[place.buffer.source].shape)
        for place in state.memory.placements.values()
        if place.buffer.source is not None
    )


def output_ports(state: Lowering) -> tuple[Port, ...]:
    """Where the results of the model are."""
    return tuple(_port(label, state.memory.placements[name], shape) for label, (name, shape) in state.results.items())


def _port(name: str, place: Placement, shape: tuple[int, ...]) -> Port:
    return Port(
        name=name,
        shape=shape,
        address=place.address,
        rows=place.buffer.rows,
        cols=place.buffer.cols,
        format=Format.FP32 if place.buffer.fp32 else Format.OPERAND,
    )
