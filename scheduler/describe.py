"""Sentences about a lowering for people: the listing's headings and the lowering page."""

from scheduler.state import Layer, Lowering


def describe(state: Lowering, layer: Layer) -> str:
    """One line on how a layer was cut: size, pattern, dataflow, tile, estimate and the other dataflow's best."""
    plan, output = state.plans[layer.name], state.buffers[layer.output]
    size = f"{output.rows} x {output.cols}"
    tile = f"tiles of {plan.row_tile} x {min(plan.tile_cols * state.arch.array.cols, output.cols)}"
    if plan.dataflow is None:
        return f"{layer}; {size}, {tile}, about {plan.cycles:,} cycles"
    weights = state.weights[layer.name]
    depth = weights.bits.shape[0]
    note = f" ({weights.note})" if weights.note else ""
    parts = [
        f"{layer}; {output.rows} x {depth} x {output.cols} {weights.pattern or 'dense'}{note}",
        plan.dataflow.name.lower().replace("_", " "),
        f"{tile} x {min(plan.depth_tile, depth)}",
        f"interleave {plan.tile_rows} x {plan.tile_cols}",
        f"about {plan.cycles:,} cycles ({plan.rival})",
    ]
    return ", ".join(parts)


def after_pass(state: Lowering) -> str:
    """What the last pass that ran has made of a model, a few lines for each layer."""
    if state.program is not None:
        return state.program.listing().rstrip()
    if state.memory is not None:
        return "\n".join(_memory(state))
    if state.plans:
        return "\n".join(line for layer in state.layers for line in _plan(state, layer))
    if state.weights:
        return "\n".join(line for layer in state.layers for line in _weights(state, layer))
    if state.layers:
        return "\n".join([*(f"layer  {layer}" for layer in state.layers), *_buffers(state)])
    return state.graph.listing()


def _buffers(state: Lowering) -> list[str]:
    lines = []
    for buffer in state.buffers.values():
        held = (
            f", holds input {buffer.source}" if buffer.source else f", memory of {buffer.base}" if buffer.base else ""
        )
        stored = "FP32" if buffer.fp32 else "operands"
        lines.append(f"buffer {buffer.name}: {buffer.rows} x {buffer.cols} {stored}{held}")
    return lines + [f"result {label} = {name} as {list(shape)}" for label, (name, shape) in state.results.items()]


def _weights(state: Lowering, layer: Layer) -> list[str]:
    weights = state.weights.get(layer.name)
    if weights is None:
        return [f"{layer.name}: no weights"]
    depth, cols = weights.bits.shape
    head = f"{layer.name}: {depth} x {cols} operands, {weights.pattern or 'dense'} {weights.note}".rstrip()
    if weights.mask is None:
        return [head]
    kept = [int(k) for k in weights.mask[:, 0].nonzero()[0]]
    return [head, f"  column 0 keeps k = {', '.join(str(k) for k in kept)}"]


def _plan(state: Lowering, layer: Layer) -> list[str]:
    plan = state.plans[layer.name]
    flow = "no product" if plan.dataflow is None else plan.dataflow.name.lower().replace("_", " ")
    order = f"{plan.outer} outside, {plan.panel} of them stay"
    return [
        f"{layer.name}: {flow}, about {plan.cycles:,} cycles" + (f" ({plan.rival})" if plan.rival else ""),
        f"  output tile {plan.row_tile} rows x {plan.tile_cols} words, {plan.depth_tile} of the reduction at a time",
        f"  {plan.row_tiles} x {plan.col_tiles} x {plan.depth_tiles} tiles (rows, columns, depth), {order}",
        f"  interleave {plan.tile_rows} x {plan.tile_cols}, {plan.out_slots} result slots of {plan.out_words} words",
        f"  activations: {plan.act_slots} slots of {plan.act_words} words",
        f"  weights: {plan.wgt_slots} slots of {plan.wgt_words} words",
    ]


def _memory(state: Lowering) -> list[str]:
    lines = [f"{item.address:#07x} {item.size:6d} bytes  {item.kind:7s} {item.name}" for item in state.memory.segments]
    for name, chunks in state.memory.chunks.items():
        for (col, depth), chunk in chunks.items():
            text = f"{chunk.words} words of {chunk.groups} groups at {chunk.values:#x}, indices at {chunk.indices:#x}"
            lines.append(f"{name} column tile {col}, depth tile {depth}: {text}")
    return lines
