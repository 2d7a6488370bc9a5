"""The job `simulate`: a model becomes a program, runs on the Verilated accelerator, and is compared with golden."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from hwgen.arch import Arch, UserError
from hwgen.arch.commands import Command
from models.pattern import Pattern
from scheduler.capture import capture
from scheduler.ir import Graph
from scheduler.lower import compile_graph
from scheduler.options import DataflowChoice, Options, SparsityPolicy
from scheduler.program import Program
from sim.check import check_run, run_golden
from sim.device import SimulationError
from sim.files import output_folder
from sim.memory import MemoryModel
from sim.report import Report
from sim.runner import Simulator, Waveform, build
from sim.timeline import write_timeline
from sim.verilate import Progress

R = TypeVar("R", bound=Report)
PAGE = 4096
"""The memory image ends at a multiple of this, as real memory does."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How to run and check a program."""

    memory: MemoryModel = field(default_factory=MemoryModel)
    check: bool = True
    """Compare every word of memory with the golden machine."""
    timeout_cycles: int = 100_000_000
    waveform: tuple[int, int] | None = None
    """Cycles (first, last) to record; needs `folder`, and a build that runs slower."""
    folder: Path | None = None
    """Where to write report, listing, timeline and waveform."""
    progress: Progress | None = None


def simulate(
    model: torch.nn.Module | Graph,
    inputs: tuple[torch.Tensor, ...] | Mapping[str, ArrayLike],
    arch: Arch,
    *,
    sparsity: str = "dense",
    dataflow: DataflowChoice = "auto",
    name: str = "",
    options: RunOptions | None = None,
) -> Report:
    """Capture, schedule, generate, build, run on RTL, and compare with the golden machine.

    model : PyTorch module, or a graph from `scheduler`.
    inputs : tensors in the order of the model's inputs, or arrays by name; their shapes are the program's.
    sparsity : "dense", or a pattern N:M such as "2:8" for the weights of every linear layer.

    Raises `UserError` when model, inputs and architecture do not fit together, `SimulationError` when the hardware
    misbehaves. A difference from golden is in `Report.comparison`.
    """
    options = options or RunOptions()
    report = options.progress or (lambda text: None)
    report("scheduling")
    graph = model if isinstance(model, Graph) else capture(model, tuple(inputs))
    choice = Options(sparsity=SparsityPolicy(Pattern.parse(sparsity)), dataflow=dataflow)
    program = compile_graph(graph, arch, choice)
    simulator = build(arch, trace=options.waveform is not None, progress=options.progress)
    about = {"model": name or type(model).__name__, "sparsity": sparsity, "dataflow": dataflow}
    return run_program(simulator, program, by_name(graph, inputs), about=about, options=options)


def by_name(graph: Graph, inputs: tuple[torch.Tensor, ...] | Mapping[str, ArrayLike]) -> dict[str, ArrayLike]:
    """Inputs of a graph as arrays by name, from tensors in order or from a mapping."""
    if isinstance(inputs, Mapping):
        return dict(inputs)
    return {name: value.detach().to(torch.float32).numpy() for name, value in zip(graph.inputs, inputs)}


def run_program(
    simulator: Simulator,
    program: Program,
    inputs: Mapping[str, ArrayLike],
    *,
    about: Mapping[str, str],
    options: RunOptions | None = None,
) -> Report:
    """Run a program on a simulator that is built, compare, and write the files that `options` ask for.

    `about` has "model", "sparsity" and "dataflow", for titles. Errors as in `simulate`.
    """
    options = options or RunOptions()
    if options.folder is None:
        return _run(simulator, program, inputs, about, options, None)
    with output_folder(options.folder) as partial:
        report = _run(simulator, program, inputs, about, options, partial)
        return write_files(report, program.listing(), program.commands, partial, options.folder)


def _run(
    simulator: Simulator,
    program: Program,
    inputs: Mapping[str, ArrayLike],
    about: Mapping[str, str],
    options: RunOptions,
    folder: Path | None,
) -> Report:
    say = options.progress or (lambda text: None)
    image = _padded(program.image(inputs))
    waveform = None
    if options.waveform is not None and folder is not None:
        waveform = Waveform(folder / "wave.fst", *options.waveform)
    say("running on RTL")
    run = simulator.run(
        image,
        program=program.program_address,
        count=len(program.commands),
        memory=options.memory,
        timeout_cycles=options.timeout_cycles,
        waveform=waveform,
        progress=lambda text: say(f"running on RTL: {text}"),
    )
    if waveform is not None and not waveform.path.exists():
        window = f"{waveform.first}:{waveform.last}"
        raise UserError(f"the waveform window {window} begins after the run, which takes {run.cycles:,} cycles")
    if not run.status.ok:
        raise SimulationError(f"the hardware stopped: {run.status}")
    golden = comparison = None
    if options.check:
        say("running on the golden machine")
        result = run_golden(simulator.arch, image, 0, program.encode())
        golden, comparison = result.result, check_run(run, result, 0)
    outputs = program.read_outputs(run.memory)
    return Report(arch=simulator.arch, run=run, golden=golden, comparison=comparison, outputs=outputs, **about)


def _padded(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.pad(image, (0, -image.size % PAGE))


def write_files(report: R, listing: str, commands: Sequence[Command], partial: Path, folder: Path) -> R:
    """Write listing, timeline, outputs and report of a run into the folder `partial`, which will become `folder`.

    The report that is returned names the files, and that of a waveform if there is one.
    """
    (partial / "program.lst").write_text(listing)
    write_timeline(partial / "timeline.json", report.run.events, commands, title=report.arch.name)
    np.savez(partial / "outputs.npz", **report.outputs)
    names = {"listing": "program.lst", "timeline": "timeline.json", "outputs": "outputs.npz", "report": "report.json"}
    if (partial / "wave.fst").exists():
        names["waveform"] = "wave.fst"
    report = replace(report, files={kind: folder / name for kind, name in names.items()})
    (partial / "report.json").write_text(json.dumps(report.to_json(), indent=2) + "\n")
    return report
