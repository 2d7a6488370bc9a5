"""Where the cycles of a training step go: a table and a timeline of its kernels, by the cycle model.

`python -m sim.step_report resnet18 --pattern 2:8` writes `layers.md`, `layers.json` and `timeline.json` (Perfetto).
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from hwgen.arch import load
from hwgen.arch.isa import Engine
from models.pattern import Pattern
from scheduler.training.compile import compile_step
from scheduler.training.lower import TrainingOptions
from scheduler.training.order import duration
from scheduler.training.program import TrainingProgram
from sim.console import progress, standard_output
from sim.cycles import ModelResult
from sim.device import DONE
from sim.files import output_folder
from sim.speedup import capture, card_memory
from sim.timeline import instruction_spans
from sim.tune import Tuner


@dataclass(frozen=True)
class KernelCycles:
    """One kernel of a step, named by the tensor that it makes."""

    name: str
    start: int
    end: int
    """First and last cycle in which it runs; kernels overlap."""
    instructions: int
    beats: int
    """Cycles that the array needs for it."""
    busy: dict[str, int]
    """Cycles of each engine on its instructions."""


def kernels(program: TrainingProgram, result: ModelResult) -> list[KernelCycles]:
    """One entry for each kernel, in the order in which they were recorded; `result` has all events of instructions."""
    commands, origins = program.step.commands, np.asarray(program.step.origins)
    if np.count_nonzero(result.events["kind"] == DONE) != len(commands):
        raise ValueError(f"the run's events do not have the ends of all {len(commands)} instructions")
    spans = np.zeros((len(commands), 3), np.int64)
    for index, start, end in instruction_spans(result.events, commands):
        spans[index] = start, end, 0
    engines = np.array([item.engine for item in commands])
    _own_cycles(spans, engines)
    heads = [position for position, _ in program.places.headings]
    owner = np.searchsorted(heads, origins, side="right") - 1
    beats = np.array([_beats(program, item) for item in commands])
    found = []
    for number, (_, name) in enumerate(program.places.headings):
        mine = owner == number
        if mine.any():
            busy = {e.name.lower(): int(spans[mine & (engines == e), 2].sum()) for e in Engine}
            first, last = int(spans[mine, 0].min()), int(spans[mine, 1].max())
            found.append(KernelCycles(name, first, last, int(mine.sum()), int(beats[mine].sum()), busy))
    return found


def _own_cycles(spans: NDArray[np.int64], engines: NDArray[np.int64]) -> None:
    """Third column: cycles from the end of the instruction before on the engine, or from the start, to the end."""
    for engine in Engine:
        places = np.flatnonzero(engines == engine)
        before = np.concatenate([[0], spans[places[:-1], 1]])
        spans[places, 2] = np.maximum(0, spans[places, 1] - np.maximum(spans[places, 0], before))


def _beats(program: TrainingProgram, item: object) -> int:
    if item.engine != Engine.TENSOR:
        return 0
    return duration(item, program.arch).busy


def markdown(found: list[KernelCycles]) -> str:
    """Table of all kernels."""
    lines = [
        "| kernel | from | to | instructions | array | load | tensor | vector | store |",
        "| --- |" + " ---: |" * 8,
    ]
    lines += [
        f"| {item.name} | {item.start:,} | {item.end:,} | {item.instructions:,} | {item.beats:,} | "
        + " | ".join(f"{item.busy[name]:,}" for name in ("load", "tensor", "vector", "store"))
        + " |"
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
    """Table and timeline of the kernels of one training step."""
    description = load(arch)
    with progress() as say:
        say(f"{model}: lowering and scheduling")
        options = TrainingOptions(pattern=Pattern.parse(pattern))
        tuner = Tuner(description, card_memory(description))
        program = compile_step(capture(model, batch), description, options, measure=tuner)
        result = tuner.result(program.step)
        found = kernels(program, result)
        with output_folder(output) as partial:
            (partial / "layers.md").write_text(markdown(found))
            (partial / "layers.json").write_text(json.dumps([asdict(item) for item in found], indent=2) + "\n")
            (partial / "timeline.json").write_text(json.dumps(timeline(found)))
    busy = result.counters["TENSOR_BUSY"]
    with standard_output() as console:
        console.print(f"{result.cycles:,} cycles, array busy {busy / result.cycles:.1%}; files in {output}")


if __name__ == "__main__":
    typer.run(main)
