"""What the command line's `simulate` asks for, as text, turned into a checked run."""

import re
from dataclasses import dataclass
from pathlib import Path

from hwgen.arch import UserError, load
from models.pattern import Pattern
from scheduler.load import LoadedModel, load_model
from scheduler.options import Options
from sim.memory import MemoryModel
from sim.report import Report
from sim.simulate import RunOptions, simulate
from sim.verilate import Progress

BACKENDS = ("rtl",)
"""What can run a program."""
_WINDOW = re.compile(r"(\d{1,12}):(\d{1,12})")


@dataclass(frozen=True)
class SimulateJob:
    """The arguments of `sparseloom simulate`; `run_job` checks them."""

    model: str
    arch: str
    sparsity: str = "dense"
    dataflow: str = "auto"
    backend: str = "rtl"
    batch: int | None = None
    weights: Path | None = None
    output: Path | None = None
    waveform: str | None = None
    stalls: float = 0.0
    seed: int = 0


def run_job(job: SimulateJob, *, progress: Progress) -> Report:
    """Check all arguments, load the model and simulate. Raises `UserError` before anything long begins."""
    if job.backend not in BACKENDS:
        raise UserError(f"backend must be one of {', '.join(BACKENDS)}, not {job.backend!r}")
    arch = load(job.arch)
    Pattern.parse(job.sparsity)
    Options(dataflow=job.dataflow)
    window = _window(job.waveform)
    if window is not None and job.output is None:
        raise UserError("a waveform needs a folder to go to: give -o DIR")
    memory = MemoryModel(stalls=job.stalls, seed=job.seed)
    progress("loading the model")
    model = _load(job)
    options = RunOptions(memory=memory, waveform=window, folder=job.output, progress=progress)
    return simulate(
        model.graph,
        model.inputs,
        arch,
        sparsity=job.sparsity,
        dataflow=job.dataflow,
        name=job.model,
        options=options,
    )


def _window(text: str | None) -> tuple[int, int] | None:
    """`"100:200"` -> (100, 200)."""
    if text is None:
        return None
    match = _WINDOW.fullmatch(text)
    if match is None or int(match[1]) >= int(match[2]):
        raise UserError(f"a waveform window must be A:B, cycles with A < B, not {text!r}")
    return int(match[1]), int(match[2])


def _load(job: SimulateJob) -> LoadedModel:
    spec = job.model
    if job.batch is not None:
        if not re.fullmatch(r"\w+(:.*)?", spec):
            raise UserError("--batch is for models of the zoo; others bring their example inputs")
        spec += f"{',' if ':' in spec else ':'}batch={job.batch}"
    return load_model(spec, weights=job.weights, seed=job.seed)
