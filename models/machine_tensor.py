"""TENSOR of the golden machine: tiles of activations times tiles of weights, in both dataflows."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwgen.arch.commands import Command
from hwgen.arch.isa import Dataflow
from models.formats import decode, fp32_bits, fp32_values
from models.machine_state import State, Undefined, block_words, require, require_words
from models.machine_walk import (
    activation_element,
    activation_elements,
    check_walk,
    group_shape,
    weight_word,
    weight_words,
)
from models.matmul import accumulate_dense, accumulate_gathered


@dataclass(frozen=True)
class TensorWork:
    """What one TENSOR instruction asks of the array."""

    pc: int
    """Index of the instruction."""
    beats: int
    """Cycles in which every processing element takes `lanes` products, were there no stall.

    OS: K * groups * tile_rows * tile_cols; WS: K * tile_cols * rows.
    """
    useful_macs: int
    """Products of valid rows with slots that weights can fill: rows * groups * (n or lanes) * tile_cols * C."""


def execute_tensor(state: State, item: Command, pc: int) -> TensorWork:
    """Execute one TENSOR.

    Raises `Fault` with the cause that ISA.md gives, `Undefined` where it leaves the result open.
    """
    array = state.arch.array
    if item.sparse:
        require(1 <= item.n <= item.m <= array.group_max, f"1 <= n <= m <= group_max ({array.group_max}) must hold")
    check_walk(item)
    group, words = group_shape(item, array.lanes)
    if item.dataflow == Dataflow.OUTPUT_STATIONARY:
        _check_output_stationary(state, item, group)
        beats = words * item.groups * item.tile_rows * item.tile_cols
        run = _output_stationary
    else:
        _check_weight_stationary(state, item, group, words)
        beats = words * item.tile_cols * item.rows
        run = _weight_stationary
    last = weight_word(item, array, item.groups * words - 1, np.arange(item.tile_cols)).max()
    require_words("wgt", state.arch.scratchpads.wgt_depth, int(last))
    run(state, item, group)
    filled = item.n if item.sparse else array.lanes
    return TensorWork(pc, beats, item.rows * item.groups * filled * item.tile_cols * array.cols)


def _check_output_stationary(state: State, item: Command, group: int) -> None:
    array = state.arch.array
    slots = item.tile_rows * item.tile_cols
    require(slots <= array.interleave_max, f"tile_rows * tile_cols must be at most {array.interleave_max}, not {slots}")
    require(item.rows <= item.tile_rows * array.rows, f"rows must be at most tile_rows * {array.rows}, not {item.rows}")
    ring = 1 << ((array.act_buffer // item.tile_rows).bit_length() - 1)
    needed = group + 2 * array.act_width
    require(ring >= needed, f"the ring of a row block holds {ring} values, but a group needs {needed}")
    last = activation_element(item, array, item.tile_rows - 1, item.groups * group - 1)
    require_words("act", state.arch.scratchpads.act_depth, last // array.cols)
    if item.last:
        _check_result(state, item)
    if not item.first and slots > state.held_slots:
        raise Undefined(f"sums of {slots} slots are continued, the array holds those of {state.held_slots}")


def _check_weight_stationary(state: State, item: Command, group: int, words: int) -> None:
    array = state.arch.array
    require(item.groups <= array.rows, f"groups must be at most array.rows ({array.rows}), not {item.groups}")
    slots = words * item.tile_cols
    require(slots <= array.weight_buffer, f"K * tile_cols must be at most {array.weight_buffer}, not {slots}")
    require(item.tile_cols <= array.interleave_max, f"tile_cols must be at most {array.interleave_max}")
    require(item.tile_rows == 1 and item.last == 1, "tile_rows and last must be 1 when weight stationary")
    require_words("act", state.arch.scratchpads.act_depth, item.act_addr + -(-item.rows * group // array.cols) - 1)
    _check_result(state, item)


def _check_result(state: State, item: Command) -> None:
    last = item.acc_addr + (item.rows - 1) * item.acc_stride + item.tile_cols - 1
    require_words("acc", state.arch.scratchpads.acc_depth, last)
    if item.rows > 1 and item.acc_stride < item.tile_cols:
        raise Undefined(f"output rows of {item.tile_cols} words overlap, because acc_stride is {item.acc_stride}")


def _output_stationary(state: State, item: Command, group: int) -> None:
    array = state.arch.array
    values = state.act[:, activation_elements(item, array)]
    # [bank, row block, value] -> [value, output row]
    values = values.transpose(2, 1, 0).reshape(item.groups * group, -1)
    slots = item.tile_rows * item.tile_cols
    # Sums that are held go on in every row of the array; otherwise only the rows that are written count.
    rows = item.rows if item.last else item.tile_rows * array.rows
    sums = np.zeros((item.tile_cols * array.cols, rows), dtype=np.float32)
    if not item.first:
        sums[:] = _held_to_sums(state, item)[:, :rows]
    _accumulate(state, item, values[:, :rows], sums, group, item.groups)
    state.held_slots = 0
    if item.last:
        _write_result(state, item, sums)
    else:
        held = fp32_bits(sums).reshape(item.tile_cols, array.cols, item.tile_rows, array.rows)
        state.held[:slots] = held.transpose(2, 0, 1, 3).reshape(slots, array.cols, array.rows)
        state.held_slots = slots


def _held_to_sums(state: State, item: Command) -> NDArray[np.float32]:
    """Sums of the slots that the instruction continues, `[column, output row]`."""
    array = state.arch.array
    held = state.held[: item.tile_rows * item.tile_cols]
    held = held.reshape(item.tile_rows, item.tile_cols, array.cols, array.rows).transpose(1, 2, 0, 3)
    return fp32_values(held.reshape(item.tile_cols * array.cols, -1))


def _weight_stationary(state: State, item: Command, group: int) -> None:
    array = state.arch.array
    start = item.act_addr * array.cols
    values = state.act[:, start : start + item.rows * group].reshape(array.rows, item.rows, group)
    # [bank, row, value of the group] -> [value, output row]
    values = values.transpose(0, 2, 1).reshape(array.rows * group, item.rows)
    sums = np.zeros((item.tile_cols * array.cols, item.rows), dtype=np.float32)
    if not item.first:
        words = state.acc[block_words(item.acc_addr, item.acc_stride, item.rows, item.tile_cols)]
        sums[:] = fp32_values(words).reshape(item.rows, -1).T
    _accumulate(state, item, values, sums, group, array.rows)
    state.held_slots = 0
    _write_result(state, item, sums)


def _write_result(state: State, item: Command, sums: NDArray[np.float32]) -> None:
    words = block_words(item.acc_addr, item.acc_stride, item.rows, item.tile_cols)
    state.acc[words] = fp32_bits(sums.T).reshape(item.rows, item.tile_cols, -1)


def _accumulate(
    state: State, item: Command, values: NDArray[np.uint16], sums: NDArray[np.float32], group: int, groups: int
) -> None:
    """Add all products of `values` `[value, output row]` to `sums` `[column, output row]`; absent groups are +0."""
    array = state.arch.array
    _, words = group_shape(item, array.lanes)
    places = weight_words(item, array)
    activations = np.ascontiguousarray(decode(values, array.operand))
    absent = (groups - item.groups) * words * array.lanes
    weights = np.pad(decode(_reduction_major(state.wgt[places]), array.operand), [(0, absent), (0, 0)])
    if not item.sparse:
        accumulate_dense(activations, weights, sums)
        return
    indices = _reduction_major(state.idx[places])
    if indices.max() >= item.m:
        raise Undefined(f"a stored index is {indices.max()}, which must be below m={item.m}")
    base = np.repeat(np.arange(groups, dtype=np.uint32) * group, words * array.lanes)
    rows = base[:, None] + np.pad(indices, [(0, absent), (0, 0)]).astype(np.uint32)
    accumulate_gathered(activations, weights, rows, sums)


def _reduction_major(words: NDArray) -> NDArray:
    """Weight (or index) words `[groups * K, tile_cols, lanes, C]` as `[slot along the reduction, column]`."""
    count, tile_cols, lanes, cols = words.shape
    return words.transpose(0, 2, 1, 3).reshape(count * lanes, tile_cols * cols)
