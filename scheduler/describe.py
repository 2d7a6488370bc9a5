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
