"""Where the cycles of a training step go: a table and a timeline of its kernels, by the cycle model.

`python -m sim.training.step_report resnet18 --pattern 2:8` writes `layers.md`, `layers.json`, `timeline.json`
(Perfetto) and `timeline.svg`.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from hwgen.arch import load
from hwgen.arch.arrays import columns, engines
from hwgen.arch.isa import Opcode
from hwgen.arch.isa import engines as present
from models.pattern import Pattern
from scheduler.training.compile import compile_step
from scheduler.training.lower import TrainingOptions
from scheduler.training.program import TrainingProgram
from scheduler.training.schedule.order import beats
from sim.console import progress, standard_output
from sim.cycles import ModelResult
from sim.files import output_folder
from sim.training.speedup import capture, card_memory
from sim.training.step_picture import picture
from sim.training.tune import Tuner, own_cycles, spans


@dataclass(frozen=True)
class KernelCycles:
    """One kernel of a step, named by the tensor that it makes."""

    name: str
    start: int
    end: int
    """First and last cycle in which it runs; kernels overlap."""
    advance: int
    """Cycles from the end of all kernels before it to its own; these add up to the cycles of the step."""
    instructions: int
    products: int
    """Cycles in which the array takes its products."""
    busy: dict[str, int]
    """Cycles of each engine on its instructions."""

    @property
    def bound(self) -> str:
        """The engine that has most to do for it."""
        return max(self.busy, key=self.busy.__getitem__)


def kernels(program: TrainingProgram, result: ModelResult) -> list[KernelCycles]:
    """One entry for each kernel, in the order in which they were recorded; `result` has all events of instructions."""
    code, heads = program.step, [position for position, _ in program.places.headings]
    issued, ended = spans(code, result)
    own, executes, products = own_cycles(code, issued, ended), engines(code.commands), _products(program)
    owner = np.searchsorted(heads, np.asarray(code.origins), side="right") - 1
    found, latest = [], 0
    for number, (_, name) in enumerate(program.places.headings):
        mine = np.flatnonzero(owner == number)
        if mine.size:
            busy = {e.name.lower(): int(own[mine[executes[mine] == e]].sum()) for e in present(program.arch)}
            first, last = int(issued[mine].min()), int(ended[mine].max()) + 1
            counts = mine.size, int(products[mine].sum())
            found.append(KernelCycles(name, first, last, max(0, last - latest), *counts, busy))
            latest = max(latest, last)
    return found


def _products(program: TrainingProgram) -> NDArray[np.int64]:
    """Cycles in which the array takes products, for each instruction."""
    found = np.zeros(len(program.step.commands), np.int64)
    for item in columns(program.step.commands):
        if item.opcode == Opcode.TENSOR:
            found[item.positions] = beats(item, program.arch)
    return found


def markdown(found: list[KernelCycles]) -> str:
    """Table of all kernels."""
    lines = [
        "| kernel | from | to | adds | instructions | products | " + " | ".join(found[0].busy) + " | most |",
        "| --- |" + " ---: |" * (5 + len(found[0].busy)) + " --- |",
    ]
    lines += [
        f"| {item.name} | {item.start:,} | {item.end:,} | {item.advance:,} | {item.instructions:,} | "
        f"{item.products:,} | " + " | ".join(f"{cycles:,}" for cycles in item.busy.values()) + f" | {item.bound} |"
        for item in found
    ]
    return "\n".join(lines) + "\n"


def timeline(found: list[KernelCycles]) -> dict:
    """Chrome trace: overlapping kernels in rows."""
    entries, free = [], []
    for item in sorted(found, key=lambda kernel: kernel.start):
        row = next((number for number, cycle in enumerate(free) if cycle <= item.start), len(free))
        free[row : row + 1] = [item.end]
        place = {"pid": 1, "tid": row + 1, "ts": item.start, "dur": max(1, item.end - item.start)}
        entries.append({"name": item.name, "ph": "X", "cat": "kernel", **place, "args": asdict(item)})
    return {"traceEvents": entries, "displayTimeUnit": "ns", "otherData": {"unit": "1 us on the ruler is 1 cycle"}}


def main(
    model: Annotated[str, typer.Argument(help="A network of the training zoo.")] = "resnet18",
    pattern: Annotated[str, typer.Option(metavar="N:M|dense")] = "2:8",
    arch: Annotated[str, typer.Option(metavar="NAME|FILE")] = "sat32",
    batch: Annotated[int, typer.Option(help="Images of a step.")] = 32,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR")] = Path("build/step"),
) -> None:
    """Table, timeline and picture of the kernels of one training step."""
    description = load(arch)
    with progress() as say:
        say(f"{model}: lowering and scheduling")
        options = TrainingOptions(pattern=Pattern.parse(pattern))
        tuner = Tuner(description, card_memory(description))
        program = compile_step(capture(model, batch), description, options, measure=tuner)
        result = tuner.result(program.step)
        found, busy = kernels(program, result), result.counters["TENSOR_BUSY"] / result.cycles
        text = f"{pattern} on {description.name}: {result.cycles:,} cycles, array busy {busy:.1%}"
        with output_folder(output) as partial:
            (partial / "layers.md").write_text(markdown(found))
            (partial / "layers.json").write_text(json.dumps([asdict(item) for item in found], indent=2) + "\n")
            (partial / "timeline.json").write_text(json.dumps(timeline(found)))
            (partial / "timeline.svg").write_text(picture(program, result, f"{model}, {batch} images, {text}"))
    with standard_output() as console:
        console.print(f"{text}; files in {output}")


if __name__ == "__main__":
    typer.run(main)
