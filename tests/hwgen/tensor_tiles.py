"""TENSOR instructions for tests: builders, walks that stay within the scratchpads, random sequences of tiles."""

from dataclasses import replace
from math import ceil

import numpy as np

from hwgen.arch import Arch, load
from hwgen.arch.commands import Command, command
from hwgen.arch.isa import Dataflow, Opcode, Walk
from models.machine import Machine


def draining_two(name: str) -> Arch:
    """A preset whose results leave the array two words a cycle."""
    arch = load(name)
    return replace(arch, name=f"{name}_two", array=replace(arch.array, drain=2))


def tensor(**operands) -> Command:
    """A TENSOR of one tile that starts at +0 and is written."""
    return command(Opcode.TENSOR, **{"first": 1, "last": 1, "tile_cols": 1, "tile_rows": 1} | operands)


def output(**operands) -> Command:
    """An output-stationary tile."""
    return tensor(dataflow=Dataflow.OUTPUT_STATIONARY, **operands)


def weight(**operands) -> Command:
    """A weight-stationary tile."""
    return tensor(dataflow=Dataflow.WEIGHT_STATIONARY, **operands)


def group_of(array, item: Command) -> tuple[int, int]:
    """(G, K) of an instruction, from ISA.md."""
    return (item.m, ceil(item.n / array.lanes)) if item.sparse else (array.lanes, 1)


def fetches_of(array, item: Command) -> int:
    """Activation words of a row block of an output-stationary tile."""
    return ceil(item.groups * group_of(array, item)[0] / array.act_width)


def write_stage(array) -> int:
    """Cycles from a beat's control at an element to its new sum."""
    return 1 + array.mul_latency + array.lanes * array.add_latency


def drain_cycles(array, item: Command) -> int:
    """Cycles in which the results of an output-stationary tile leave the array."""
    if array.drain == 1:
        return item.rows * item.tile_cols
    pair = item.tile_cols + item.tile_cols % 2 * (1 - item.acc_stride % 2)
    return item.rows // 2 * pair + item.rows % 2 * item.tile_cols


def drain_period(array, item: Command) -> int:
    """Least cycles between such tiles in a stream."""
    return drain_cycles(array, item) + (write_stage(array) + 1 if array.drain == 1 else 1)


def after_last_beat(array, item: Command) -> int:
    """Cycles from the last beat of such a tile to its last result."""
    drained = write_stage(array) + array.drain - 1 + drain_cycles(array, item) + array.rows + array.cols + 3
    return drained - item.tile_rows * item.tile_cols


def machine_with(arch: Arch, rng: np.random.Generator, m: int) -> Machine:
    """A golden machine with random scratchpads whose indices lie within groups of `m`."""
    machine = Machine(arch, 1024)
    state = machine.state
    for memory in (state.act, state.wgt):
        memory[:] = rng.standard_normal(memory.shape).astype(np.float16).view(np.uint16)
    state.idx[:] = rng.integers(0, m, state.idx.shape)
    state.acc[:] = rng.standard_normal(state.acc.shape).astype(np.float32).view(np.uint32)
    state.acc[::5] = rng.integers(1, 1 << 24, state.acc[::5].shape)  # subnormals and the least normal numbers
    return machine


def last_activation(arch: Arch, item: Command) -> int:
    """Highest activation word that an ACT walk touches."""
    last = fetches_of(arch.array, item) - 1
    return item.act_addr + (item.tile_rows - 1) * item.act_stride + last + last // item.run * item.jump


def last_weight(arch: Arch, item: Command) -> int:
    """Highest weight word that a WGT walk touches."""
    words = item.groups * group_of(arch.array, item)[1]
    columns = (c % item.col_run * item.col_step + c // item.col_run * item.col_jump for c in range(item.tile_cols))
    return item.wgt_addr + (words - 1) * item.step + (item.groups - 1) // item.run * item.jump + max(columns)


def activation_words(arch: Arch) -> int:
    """Activation words of a bank."""
    return arch.scratchpads.act_depth * arch.array.cols // arch.array.act_width


def random_walk(arch: Arch, rng: np.random.Generator, walk: Walk, item: Command) -> Command:
    """The same tile with a walk of random strides within the scratchpads."""
    if walk is Walk.NONE:
        return item
    while True:
        reach = int(rng.choice([1, 4, 30, 300]))
        names = ("jump", "act_stride") if walk is Walk.ACT else ("jump", "step", "col_step", "col_jump")
        fields = {name: int(rng.integers(reach + 1)) for name in names}
        fields |= {"run": int(rng.choice([1, 2, 3, 5, 20])), "col_run": int(rng.integers(1, 17))}
        fields["col_step"] = fields.get("col_step", 0) % 256
        walked = command(Opcode.TENSOR, **item.operands | {"walk": walk} | fields)
        limit = activation_words(arch) if walk is Walk.ACT else arch.scratchpads.wgt_depth
        last = last_activation if walk is Walk.ACT else last_weight
        if last(arch, walked) < limit:
            return walked


def random_tiles(arch: Arch, rng: np.random.Generator) -> tuple[list[Command], int]:
    """A legal sequence of tiles of both dataflows, with walks, sums that continue and results that overlap.

    Returns the tiles and the limit of their indices.
    """
    array, tiles, held, block = arch.array, [], None, None
    sparse, m = int(rng.integers(2)), int(rng.integers(1, array.group_max + 1))
    n = int(rng.integers(1, m + 1))
    group, words = (m, ceil(n / array.lanes)) if sparse else (array.lanes, 1)
    pattern = {"sparse": sparse, "n": n * sparse, "m": m * sparse}
    for _ in range(rng.integers(1, 9)):
        place = {
            "act_addr": int(rng.integers(20)),
            "wgt_addr": int(rng.integers(50)),
            "acc_addr": int(rng.integers(20)),
        }
        if rng.integers(2):
            cols, blocks = int(rng.integers(1, array.interleave_max + 1)), int(rng.integers(1, 5))
            ring = array.act_buffer >> (blocks - 1).bit_length()
            if cols * blocks > array.interleave_max or ring < group + 2 * array.act_width:
                cols = blocks = 1
            first = 1 if held is None else int(rng.integers(2))
            cols, blocks = (cols, blocks) if first else held
            last = int(rng.integers(2))
            held, block = None if last else (cols, blocks), None
            sizes = {"groups": int(rng.integers(1, 12)), "rows": int(rng.integers(1, array.rows * blocks + 1))}
            sizes |= {"tile_cols": cols, "tile_rows": blocks, "act_stride": int(rng.integers(40))}
            sizes |= {"acc_stride": cols + int(rng.integers(3))}
            item = output(first=first, last=last, **pattern, **sizes, **place)
            tiles.append(random_walk(arch, rng, Walk(rng.integers(3)), item))
        else:
            cols = int(rng.integers(1, min(array.interleave_max, array.weight_buffer // words) + 1))
            sizes = {"rows": int(rng.integers(1, 40)), "tile_cols": cols, "acc_stride": cols + int(rng.integers(2))}
            if block and rng.integers(2):
                sizes, place = block[0], place | {"acc_addr": block[1]}
            held, block = None, (sizes, place["acc_addr"])
            groups = int(rng.integers(1, array.rows + 1))
            tiles.append(weight(first=int(rng.integers(2)), groups=groups, **pattern, **sizes, **place))
    return tiles, m if sparse else 16
