"""Where the operands of a TENSOR instruction are: A(ir, e) and W(w, ic) of ISA.md. All arguments may be arrays."""

import numpy as np
from numpy.typing import NDArray

from hwgen.arch.commands import Command
from hwgen.arch.config import Array
from hwgen.arch.isa import Dataflow, Walk
from models.machine_state import require

Numbers = int | NDArray[np.integer]


def group_shape(item: Command, lanes: int) -> tuple[int, int]:
    """`(G, K)` of ISA.md: values of a group, and weight words of a group in each column block."""
    return (item.m, -(-item.n // lanes)) if item.sparse else (lanes, 1)


def check_walk(item: Command) -> None:
    """BAD_FIELD if a rule about the walk is broken."""
    stationary = item.dataflow == Dataflow.WEIGHT_STATIONARY
    require(item.walk == Walk.NONE or not stationary, "walk must be NONE when weight stationary")
    require(item.walk == Walk.NONE or item.run >= 1, "run must be at least 1")
    require(item.walk != Walk.WGT or item.col_run >= 1, "col_run must be at least 1")


def activation_element(item: Command, array: Array, block: Numbers, place: Numbers) -> Numbers:
    """Element of a bank at `place` in the reduction of row block `block`, output stationary."""
    if item.walk != Walk.ACT:
        return (item.act_addr + block * item.act_stride) * array.cols + place
    word = place // array.act_width
    start = item.act_addr + block * item.act_stride + word + word // item.run * item.jump
    return start * array.act_width + place % array.act_width


def weight_word(item: Command, array: Array, word: Numbers, block: Numbers) -> Numbers:
    """Weight word number `word` along the reduction of column block `block`."""
    if item.walk != Walk.WGT:
        return item.wgt_addr + word * item.tile_cols + block
    _, words = group_shape(item, array.lanes)
    row = item.wgt_addr + word * item.step + word // words // item.run * item.jump
    return row + block % item.col_run * item.col_step + block // item.col_run * item.col_jump


def weight_words(item: Command, array: Array) -> NDArray[np.integer]:
    """All weight words of the instruction, `[groups * K, tile_cols]`."""
    _, words = group_shape(item, array.lanes)
    return weight_word(item, array, np.arange(item.groups * words)[:, None], np.arange(item.tile_cols))


def activation_elements(item: Command, array: Array) -> NDArray[np.integer]:
    """Elements of a bank that an output-stationary instruction uses, `[tile_rows, groups * G]`."""
    group, _ = group_shape(item, array.lanes)
    return activation_element(item, array, np.arange(item.tile_rows)[:, None], np.arange(item.groups * group))
