"""What N:M sparsity is worth in training: cycles of whole steps of real networks, by the cycle model.

`python -m sim.training.speedup` captures each network from PyTorch (shapes only), lowers and schedules a step, runs the
encoded program through the cycle model, and compares the speed-up with the bound of the network's own multiplications.
"""

import json
import time
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.table import Table

from hwgen.arch import Arch, load
from models.pattern import Pattern
from models.zoo_train import build_training
from scheduler.training.capture import capture_training
from scheduler.training.compile import compile_step
from scheduler.training.convert.joint import fake_mode
from scheduler.training.graph.ir import TrainingGraph
from scheduler.training.graph.work import bound, total
from scheduler.training.lower import TrainingOptions
from sim.console import progress, standard_output
from sim.files import output_folder
from sim.memory import MemoryModel
from sim.training.tune import Tuner

MODELS = ("resnet9", "vgg19", "resnet18", "resnet50_224", "vit")
PATTERNS = ("dense", "2:8", "2:4")
BYTES_A_SECOND = 76_800_000_000
"""Four channels of DDR4-2400, as on the VCU1525."""
FOLDER = Path("build/speedup")


@dataclass(frozen=True)
class StepCycles:
    """One training step of a network by the cycle model."""

    model: str
    pattern: str
    batch: int
    arch: str
    instructions: int
    cycles: int
    tensor_busy: int
    """Cycles in which the array takes a product."""
    read_beats: int
    write_beats: int
    engines: dict[str, int]
    """Cycles in which each engine executes an instruction."""
    states: dict[str, int]
    """Cycles of the tensor engine by state."""
    bound: float
    """Speed-up over dense that the network's multiplications allow."""
    macs: int
    """Multiplications of a dense step."""
    compile_seconds: float
    model_seconds: float

    @property
    def utilisation(self) -> float:
        """Share of the cycles in which the array takes a product."""
        return self.tensor_busy / self.cycles


def card_memory(arch: Arch) -> MemoryModel:
    """The card's memory at the clock of an architecture."""
    return MemoryModel(bandwidth=Fraction(BYTES_A_SECOND, arch.clock_mhz * 1_000_000))


def capture(name: str, batch: int) -> TrainingGraph:
    """A network of the zoo with momentum SGD, without values."""
    with fake_mode():
        module, inputs, labels = build_training(name, batch)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
        return capture_training(module, "cross_entropy", inputs, labels, optimizer)


def measure(name: str, pattern: str, arch: Arch, batch: int, options: TrainingOptions | None = None) -> StepCycles:
    """Lower, schedule and count one step; `options` give all choices but the pattern."""
    graph, start = capture(name, batch), time.process_time()
    chosen = TrainingOptions(**{**vars(options or TrainingOptions()), "pattern": Pattern.parse(pattern)})
    tuner = Tuner(arch, card_memory(arch))
    program = compile_step(graph, arch, chosen, measure=tuner)
    compiled = time.process_time()
    result = tuner.result(program.step)
    counters = result.counters
    nm = chosen.pattern or Pattern(1, 1)
    return StepCycles(
        model=name,
        pattern=pattern,
        batch=batch,
        arch=arch.name,
        instructions=len(program.step.commands),
        cycles=result.cycles,
        tensor_busy=counters["TENSOR_BUSY"],
        read_beats=counters["READ_BEATS"],
        write_beats=counters["WRITE_BEATS"],
        engines={key.removeprefix("BUSY_").lower(): value for key, value in counters.items() if key.startswith("BUSY")},
        states={
            key.removeprefix("TENSOR_").lower(): value for key, value in counters.items() if key.startswith("TENSOR")
        },
        bound=bound(graph, nm.n, nm.m, tuple(program.places.notes)),
        macs=sum(total(graph).values()),
        compile_seconds=round(compiled - start, 1),
        model_seconds=round(time.process_time() - compiled, 1),
    )


def table(results: list[StepCycles]) -> list[list[str]]:
    """Rows of text: network, pattern, cycles, utilisation, speed-up, bound, share of the bound."""
    dense = {item.model: item.cycles for item in results if item.pattern == "dense"}
    rows = []
    for item in results:
        speedup = dense[item.model] / item.cycles if item.model in dense else None
        sparse = item.pattern != "dense" and speedup is not None
        rows.append(
            [
                item.model,
                item.pattern,
                f"{item.cycles:,}",
                f"{item.utilisation:.1%}",
                f"{speedup:.2f}x" if sparse else "",
                f"{item.bound:.2f}x" if sparse else "",
                f"{speedup / item.bound:.1%}" if sparse else "",
            ]
        )
    return rows


COLUMNS = ("network", "weights", "cycles of a step", "array busy", "speed-up", "bound", "of the bound")


def _kept(folder: Path) -> dict[tuple, StepCycles]:
    """Results of an earlier, perhaps unfinished run."""
    path = folder / "speedup.json"
    if not path.exists():
        return {}
    found = [StepCycles(**item) for item in json.loads(path.read_text())]
    return {(item.model, item.pattern, item.batch, item.arch): item for item in found}


def main(
    models: Annotated[str, typer.Option(help="Networks of the training zoo, with commas.")] = ",".join(MODELS),
    patterns: Annotated[str, typer.Option(help="N:M patterns and dense, with commas.")] = ",".join(PATTERNS),
    arch: Annotated[str, typer.Option(metavar="NAME|FILE")] = "sat32",
    batch: Annotated[int, typer.Option(help="Images of a step.")] = 32,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR")] = FOLDER,
    again: Annotated[bool, typer.Option(help="Measure again what the folder has.")] = False,
) -> None:
    """Table of training speed-ups; results are kept in a folder as they come, so that a run can go on."""
    description, done = load(arch), {} if again else _kept(output)
    wanted = [(name, pattern, batch, description.name) for name in models.split(",") for pattern in patterns.split(",")]
    with progress() as say:
        for key in wanted:
            if key not in done:
                say(f"{key[0]}, {key[1]}: lowering, scheduling, counting cycles")
                done[key] = measure(key[0], key[1], description, batch)
                with output_folder(output) as partial:
                    text = json.dumps([asdict(item) for item in done.values()], indent=2)
                    (partial / "speedup.json").write_text(text + "\n")
    results = [done[key] for key in wanted]
    shown = Table(title=f"training steps of {batch} images on {description.name}", title_justify="left")
    for number, name in enumerate(COLUMNS):
        shown.add_column(name, justify="left" if number < 2 else "right")
    for row in table(results):
        shown.add_row(*row)
    with standard_output() as console:
        console.print(shown)


if __name__ == "__main__":
    typer.run(main)
