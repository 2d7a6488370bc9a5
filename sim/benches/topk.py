"""Top-k by radix selection and by the published quick-select: cycles for widths and k, and cells of a chip.

    python -m sim.benches.topk

Cycles are those of the law over random vectors. The first vectors also run on every engine, Verilated, which must give
golden's indices in the cycles of the law.
"""

import itertools
import json
import random
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from hwgen.arch import UserError
from hwgen.emit import emit_verilog
from hwgen.pruning.cycles import CycleLaw
from hwgen.pruning.topk import TopK
from hwgen.pruning.words import TopKSizes
from models.topk import top_k
from sim.files import output_folder
from sim.synthesis import ChipCells, synthesise
from sim.topk_block import Call, TopKBlock

METHODS = (("radix", 4), ("radix", 6), ("quick", 0))
SEED = 20260214
FOLDER = Path("build/topk")
LENGTH = 1024


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What is measured. Raises `UserError` for a k that no vector has."""

    widths: list[int]
    ks: list[int]
    cell_widths: list[int]
    """Widths that Yosys maps."""
    bits: int
    vectors: int
    checked: int
    """Of the vectors, on RTL too."""

    def __post_init__(self) -> None:
        bad = [k for k in self.ks if not 0 <= k <= LENGTH]
        if bad:
            raise UserError(f"k must be between 0 and {LENGTH}, not {bad[0]}")


@dataclass(frozen=True)
class Row:
    """Cycles of one engine for one k, mean and worst over the vectors."""

    width: int
    method: str
    k: int
    search_mean: float
    """From the last score to the threshold."""
    search_worst: int
    total_mean: float
    """From the command to the last result."""
    total_worst: int
    bound: int | None
    """That no vector exceeds; None: there is none of use."""


def engine_name(method: str, digit: int) -> str:
    """Text for tables."""
    return f"{method}, digits of {digit}" if method == "radix" else method


def random_vectors(bits: int, count: int) -> list[list[int]]:
    """Uniform scores, the same for every engine."""
    source = random.Random(SEED)
    return [[source.getrandbits(bits) for _ in range(LENGTH)] for _ in range(count)]


def measure(law: CycleLaw, vectors: list[list[int]], k: int) -> Row:
    """Cycles of the law."""
    search = [law.select(scores, k) for scores in vectors]
    total = [law.total(scores, k, top_k(np.array(scores, np.uint64), k).tolist()) for scores in vectors]
    return Row(
        width=law.sizes.width,
        method=engine_name(law.method, law.digit),
        k=k,
        search_mean=round(statistics.mean(search), 1),
        search_worst=max(search),
        total_mean=round(statistics.mean(total), 1),
        total_worst=max(total),
        bound=law.bound(LENGTH) if law.method == "radix" else None,
    )


def check_rtl(law: CycleLaw, vectors: list[list[int]], ks: list[int]) -> None:
    """Run vectors on the Verilated engine; `UserError` if it differs from golden or from the law."""
    block = TopKBlock(law.sizes, method=law.method, digit=law.digit)
    for scores in vectors:
        for k in ks:
            wanted = top_k(np.array(scores, np.uint64), k).tolist()
            result = block.run([Call(scores, k)])[0]
            if (result.indices, result.total) != (wanted, law.total(scores, k, wanted)):
                name = engine_name(law.method, law.digit)
                raise UserError(f"{name} at width {law.sizes.width}, k = {k}: the hardware differs from its law")


def cells(law: CycleLaw) -> ChipCells:
    """What the engine takes of a chip."""
    component = TopK(sizes=law.sizes, method=law.method, digit=law.digit)
    return synthesise(emit_verilog(component, "topk"), "topk")


def bench(sweep: Sweep, say: Callable[[str], None]) -> dict[str, Any]:
    """All engines: rows of cycles, and cells."""
    rows, chip = [], []
    vectors = random_vectors(sweep.bits, sweep.vectors)
    for width, (method, digit) in itertools.product(sweep.widths, METHODS):
        law = CycleLaw(TopKSizes(width=width, bits=sweep.bits, max_length=LENGTH), method, digit)
        say(f"{engine_name(method, digit)}, width {width}")
        if sweep.checked:
            check_rtl(law, vectors[: sweep.checked], sweep.ks)
        rows += [asdict(measure(law, vectors, k)) for k in sweep.ks]
        if width in sweep.cell_widths:
            chip.append({"width": width, "method": engine_name(method, digit)} | asdict(cells(law)))
    return {"length": LENGTH, "seed": SEED} | asdict(sweep) | {"cycles": rows, "cells": chip}


def tables(result: dict[str, Any]) -> list[Table]:
    """Cycles, then cells."""
    cycles = Table(title=f"{result['length']} scores of {result['bits']} bits, {result['vectors']} vectors")
    for name in ("width", "method", "k", "search mean", "worst", "total mean", "worst", "bound"):
        cycles.add_column(name, justify="left" if name == "method" else "right")
    for row in result["cycles"]:
        cycles.add_row(*("-" if value is None else str(value) for value in row.values()))
    chip = Table(title="UltraScale+ cells by Yosys, before placement")
    for name in ("width", "method", "LUT", "FF", "LUT as memory", "CARRY8", "RAMB36", "DSP"):
        chip.add_column(name, justify="left" if name == "method" else "right")
    for row in result["cells"]:
        chip.add_row(*map(str, row.values()))
    return [cycles, chip]


def numbers(text: str) -> list[int]:
    """Numbers of a list with commas, which may be empty."""
    try:
        return [int(part) for part in text.split(",") if part]
    except ValueError:
        raise UserError(f"{text!r} must be whole numbers with commas between them") from None


def main(
    widths: Annotated[str, typer.Option(help="elements a cycle")] = "1,2,4,8,16,32",
    ks: Annotated[str, typer.Option(help="elements kept of 1,024")] = "1,102,512,922,1024",
    cell_widths: Annotated[str, typer.Option(help="widths that Yosys maps; empty for none")] = "16",
    vectors: Annotated[int, typer.Option(help="random vectors")] = 200,
    checked: Annotated[int, typer.Option(help="of these, on RTL too")] = 2,
    bits: Annotated[int, typer.Option(help="bits of a score, 7 to 64")] = 12,
    output: Annotated[Path, typer.Option("-o", help="folder for topk.json")] = FOLDER,
) -> None:
    """Measure, print, and write topk.json."""
    console = Console(width=120)
    try:
        lists = {"widths": numbers(widths), "ks": numbers(ks), "cell_widths": numbers(cell_widths)}
        result = bench(Sweep(**lists, bits=bits, vectors=vectors, checked=checked), say=console.print)
        with output_folder(output) as folder:
            (folder / "topk.json").write_text(json.dumps(result, indent=1) + "\n")
    except (UserError, ValueError) as error:
        console.print(f"error: {error}", style="red", markup=False)
        raise typer.Exit(2) from None
    for made in tables(result):
        console.print(made)


if __name__ == "__main__":
    typer.run(main)
