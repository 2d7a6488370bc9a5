"""One large product with all operands in the scratchpads: how busy the array is, and where the rest goes.

    python -m sim.gemm --arch sat32 --size 512

Runs dense and 2:8 in both dataflows on the Verilated accelerator, compares every result word with the golden machine,
and accounts for every cycle from the first tensor instruction to the last result.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from hwgen.arch import INSTRUCTION_BYTES, Arch, UserError, load
from hwgen.arch.commands import Command, command, encode
from hwgen.arch.isa import Dataflow, Engine, Opcode, Target
from hwgen.arch.registers import TensorState
from models.formats import encode as to_operand
from models.packing import matrix_bytes, pack_weights
from models.sparsity import nm_mask
from sim.check import check_run, run_golden
from sim.device import DONE, ISSUE, STATE
from sim.memory import MemoryModel
from sim.runner import RunResult, Simulator, build

PATTERN = (2, 8)
_PAGE = 4096


@dataclass(frozen=True)
class Case:
    """A product of two `size` x `size` matrices; `sparse`: weights 2:8."""

    size: int
    dataflow: Dataflow
    sparse: bool

    @property
    def name(self) -> str:
        """Text for tables."""
        return f"{'2:8' if self.sparse else 'dense'} {self.dataflow.name.lower().replace('_', ' ')}"


@dataclass(frozen=True)
class Outcome:
    """Tensor engine cycles from the first instruction to the last result, by state; they add up to `cycles`."""

    case: Case
    ideal: int
    cycles: int
    states: dict[str, int]
    words: int

    @property
    def utilisation(self) -> float:
        """Cycles in which every element took a product, over all."""
        return self.ideal / self.cycles


class _Builder:
    """Lays out memory and instructions of one product."""

    def __init__(self, arch: Arch, case: Case, seed: int) -> None:
        self.arch, self.case = arch, case
        self.array = arch.array
        self.group, self.words = (
            (PATTERN[1], -(-PATTERN[0] // self.array.lanes)) if case.sparse else (self.array.lanes, 1)
        )
        self.tile_cols = self._tile_cols()
        self.segments: list[tuple[int, bytes]] = []
        self.end = _PAGE * 16
        self.commands: list[Command] = []
        rng = np.random.default_rng(seed)
        shape = (case.size, case.size)
        self.a, self.w = (to_operand(rng.standard_normal(shape, np.float32), self.array.operand) for _ in range(2))
        self.mask = nm_mask(rng.standard_normal(shape), *PATTERN, axis=0) if case.sparse else None

    def _tile_cols(self) -> int:
        """Least power of two that fills the adder chain; at least 8 output stationary: shorter drains."""
        chain = self.array.chain_latency
        wide = self.case.dataflow is Dataflow.OUTPUT_STATIONARY
        return min(self.array.interleave_max, max(8 if wide else 1, 1 << (chain - 1).bit_length()))

    def place(self, data: bytes) -> int:
        """Put bytes at the next free page."""
        address, self.end = self.end, -(-(self.end + len(data)) // _PAGE) * _PAGE
        self.segments.append((address, data))
        return address

    def load(self, target: Target, address: int, beats: int, **fields: int) -> None:
        self.commands.append(
            command(Opcode.LOAD, target=target, dram_addr=address, beats=beats, **{"rows": 1} | fields)
        )

    def loads(self) -> None:
        """Activations as the dataflow wants them, then weights of all column tiles."""
        size, cols, beat = self.case.size, self.array.cols, self.arch.beat_bytes
        activations = self.place(matrix_bytes(self.a, self.arch))
        row = size * 2
        if self.case.dataflow is Dataflow.OUTPUT_STATIONARY:
            self.load(Target.ACT_ROWS, activations, size // cols, rows=size, row_stride=row, stride=size // cols)
        else:
            span = self.array.rows * self.group
            for index in range(size // span):
                self.load(
                    Target.ACT_CHUNKS,
                    activations + index * span * 2,
                    span // cols,
                    rows=size,
                    row_stride=row,
                    addr=index * size * self.group // cols,
                    chunk_log2=self.group.bit_length() - 1,
                )
        address, width = 0, self.tile_cols * cols
        pattern = PATTERN if self.case.sparse else (None, None)
        for first in range(0, size, width):
            columns = slice(first, first + width)
            mask = None if self.mask is None else self.mask[:, columns]
            tile = pack_weights(
                self.w[:, columns], self.arch, tile_cols=self.tile_cols, n=pattern[0], m=pattern[1], mask=mask
            )
            values = tile.value_bytes()
            self.load(Target.WGT, self.place(values), len(values) // beat, addr=address)
            if self.case.sparse:
                indices = tile.index_bytes()
                self.load(Target.IDX, self.place(indices), len(indices) // beat, addr=address)
            address += tile.words

    def tiles(self) -> None:
        """Tensor instructions: column tiles outermost, so that stationary weights are loaded once."""
        size, rows, cols = self.case.size, self.array.rows, self.array.cols
        n, m = PATTERN if self.case.sparse else (0, 0)
        common = {"sparse": int(self.case.sparse), "n": n, "m": m, "tile_cols": self.tile_cols, "last": 1}
        common |= {"dataflow": self.case.dataflow, "acc_stride": size // cols}
        groups = size // self.group
        for tile in range(size // (cols * self.tile_cols)):
            weights, result = tile * groups * self.words * self.tile_cols, tile * self.tile_cols
            if self.case.dataflow is Dataflow.OUTPUT_STATIONARY:
                for block in range(size // rows):
                    place = {"act_addr": block * size // cols, "acc_addr": result + block * rows * size // cols}
                    self._tensor(first=1, groups=groups, rows=rows, wgt_addr=weights, **place, **common)
            else:
                for index in range(groups // rows):
                    place = {"act_addr": index * size * self.group // cols, "acc_addr": result}
                    place["wgt_addr"] = weights + index * rows * self.words * self.tile_cols
                    self._tensor(first=int(index == 0), groups=rows, rows=size, **place, **common)

    def _tensor(self, **fields: int) -> None:
        self.commands.append(command(Opcode.TENSOR, **fields))

    def program(self) -> tuple[np.ndarray, list[Command]]:
        """Memory image from address 0 and the commands, with the tokens between loads, tiles and the store."""
        self.loads()
        self._signal(Engine.TENSOR)
        start = len(self.commands)
        self.tiles()
        first = self.commands[start]
        self.commands[start] = command(first.opcode, wait=1 << Engine.LOAD, signal=first.signal, **first.operands)
        self._signal(Engine.STORE)
        size, cols = self.case.size, self.array.cols
        out = self.place(bytes(size * size * 4))
        words = {"rows": size, "words": size // cols, "stride": size // cols, "lanes": cols, "row_stride": size * 4}
        self.commands.append(command(Opcode.STORE, wait=1 << Engine.TENSOR, dram_addr=out, **words))
        image = np.zeros(self.end, np.uint8)
        encoded = b"".join(map(encode, self.commands))
        for address, data in [(0, encoded), *self.segments]:
            image[address : address + len(data)] = np.frombuffer(data, np.uint8)
        return image, self.commands

    def _signal(self, engine: Engine) -> None:
        item = self.commands[-1]
        self.commands[-1] = command(item.opcode, wait=item.wait, signal=1 << engine, **item.operands)


def product(arch: Arch, case: Case, seed: int = 1) -> tuple[np.ndarray, list[Command]]:
    """Memory image and instructions of one product; the program is at address 0."""
    return _Builder(arch, case, seed).program()


def check_fit(arch: Arch, case: Case) -> None:
    """Raise `UserError` unless operands and results fit the scratchpads and divide evenly."""
    pads, array = arch.scratchpads, arch.array
    if case.size < 1 or case.size % (array.rows * PATTERN[1]) or case.size % (array.cols * array.interleave_max):
        raise UserError(
            f"size {case.size} must be a multiple of {array.rows * PATTERN[1]} "
            f"and of {array.cols * array.interleave_max}"
        )
    needs = {
        "act_depth": case.size**2 // (array.rows * array.cols),
        "wgt_depth": case.size**2 // (array.cols * array.lanes),
        "acc_depth": case.size**2 // array.cols,
    }
    for name, words in needs.items():
        if words > getattr(pads, name):
            raise UserError(f"size {case.size} needs {words} words of {name}, {arch.name} has {getattr(pads, name)}")


def run_case(simulator: Simulator, case: Case, seed: int = 1) -> Outcome:
    """Run one product on the hardware, compare it with golden and account for its cycles."""
    arch = simulator.arch
    check_fit(arch, case)
    image, commands = product(arch, case, seed)
    encoded = b"".join(map(encode, commands))
    assert len(encoded) == len(commands) * INSTRUCTION_BYTES
    limit = 4 * case.size**3 // arch.macs + 40 * case.size**2
    run = simulator.run(image, program=0, count=len(commands), memory=MemoryModel(), timeout_cycles=limit)
    comparison = check_run(run, run_golden(arch, image, 0, encoded), 0)
    if not comparison.equal:
        raise RuntimeError(f"{case.name}: hardware and golden differ: {comparison}")
    cycles, states = tensor_window(run)
    ideal = case.size**3 // arch.macs * (PATTERN[0] if case.sparse else PATTERN[1]) // PATTERN[1]
    return Outcome(case, ideal, cycles, states, case.size**2)


def tensor_window(run: RunResult) -> tuple[int, dict[str, int]]:
    """Cycles from the issue of the first tensor instruction to the end of the last, and the states in between."""
    events = run.events[run.events["engine"] == Engine.TENSOR]
    first = int(events["cycle"][events["kind"] == ISSUE].min())
    last = int(events["cycle"][events["kind"] == DONE].max())
    states = dict.fromkeys((state.name.lower() for state in TensorState), 0)
    for event in events[events["kind"] == STATE]:
        start, end = int(event["cycle"]), int(event["cycle"]) + int(event["length"])
        states[TensorState(int(event["state"])).name.lower()] += max(0, min(end, last) - max(start, first))
    states["idle"] += (last - first) - sum(states.values())
    return last - first, {name: count for name, count in states.items() if count}


def print_outcomes(outcomes: list[Outcome], console: Console) -> None:
    """A row for each product; the states add up to the cycles."""
    names = [state.name.lower() for state in TensorState if any(state.name.lower() in o.states for o in outcomes)]
    table = Table(title="Tensor engine, first instruction to last result")
    for name in ("product", "cycles", "utilisation", *names):
        table.add_column(name, justify="left" if name == "product" else "right")
    for item in outcomes:
        counts = [f"{item.states.get(name, 0):,}" for name in names]
        table.add_row(item.case.name, f"{item.cycles:,}", f"{item.utilisation:.2%}", *counts)
    console.print(table)


def main(
    arch: Annotated[str, typer.Option(help="preset or file")] = "sat32",
    size: Annotated[int, typer.Option(help="rows and columns of both matrices")] = 512,
    output: Annotated[Path | None, typer.Option("-o", help="write the figures as JSON")] = None,
) -> None:
    """Measure utilisation on RTL."""
    console = Console()
    try:
        simulator = build(load(arch), progress=lambda text: console.print(text, style="dim"))
        cases = [Case(size, flow, sparse) for flow in Dataflow for sparse in (False, True)]
        outcomes = [run_case(simulator, case) for case in cases]
    except UserError as error:
        console.print(f"error: {error}", style="red", markup=False)
        raise typer.Exit(2) from None
    print_outcomes(outcomes, console)
    for dense, sparse in (outcomes[:2], outcomes[2:]):
        console.print(
            f"{sparse.case.name}: {sparse.cycles / dense.cycles * 4:.3f} x 1/4 of the dense cycles, all words equal"
        )
    if output is not None:
        rows = [
            {"product": o.case.name, "cycles": o.cycles, "utilisation": o.utilisation, "states": o.states}
            for o in outcomes
        ]
        temporary = output.with_name(output.name + ".partial")
        temporary.write_text(json.dumps({"arch": arch, "size": size, "products": rows}, indent=1) + "\n")
        temporary.replace(output)


if __name__ == "__main__":
    typer.run(main)
