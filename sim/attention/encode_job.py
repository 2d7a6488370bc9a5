"""What the command line's `encode` asks for, as text, turned into a checked run of an encoder with pruned attention."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cosine_similarity

from hwgen.arch import UserError, load
from hwgen.arch.isa import Cause
from models.attention.policy import PruningPolicy, Schedule
from models.attention.quantize import Quantization
from models.memory import Memory
from models.pattern import Pattern
from scheduler.attention.lower import check_engine, compile_encoder
from scheduler.attention.program import EncoderProgram
from sim.attention.encode_example import MINILM, Subject, function_example, minilm_example, prepare
from sim.attention.encode_report import EncodeReport
from sim.attention.facts import watched_run
from sim.check import GoldenResult, check_run
from sim.cycles import ModelResult, run_model
from sim.files import output_folder
from sim.memory import MemoryModel
from sim.report import Comparison
from sim.runner import EVENT_LIMIT, RunResult, Status, build
from sim.simulate import write_files
from sim.verilate import Progress

BACKENDS = ("rtl", "golden")
"""What can run a program; golden: the golden machine says what is computed, the cycle model how long it takes."""
WHOLE_BITS = "16"
SPARE_CYCLES = 1_000_000
"""RTL is stopped so long after twice the cycles that the model says."""


@dataclass(frozen=True, kw_only=True)
class EncodeJob:
    """The arguments of `sparseloom encode`; `run_job` checks them. Ratios are those that the last layer keeps."""

    model: str
    """`minilm`, or path/to/file.py:function, which returns a model of `transformers` and the inputs of one sequence:
    tensors by name, or the main one."""
    arch: str
    layers: int | None = None
    """The first so many; None: all."""
    text: str | None = None
    """Of MiniLM."""
    tokens: float = 1.0
    heads: str = "1.0"
    """A ratio, or a whole number of heads."""
    values: float = 1.0
    """Of every layer."""
    bits: str = WHOLE_BITS
    threshold: float | None = None
    """Rows whose largest probability is below it read the LSBs of keys; None: as `Quantization` has it."""
    sparsity: str = "dense"
    backend: str = "rtl"
    output: Path | None = None
    stalls: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise UserError(f"backend must be one of {', '.join(BACKENDS)}, not {self.backend!r}")
        _check_ratio("tokens", self.tokens)
        _check_ratio("values", self.values)
        if self.text is not None and self.model != MINILM:
            raise UserError(f"--text is for {MINILM}; other models bring their example inputs")

    @property
    def quantization(self) -> Quantization | None:
        """Bits of keys and values; None: all 16."""
        if self.bits == WHOLE_BITS:
            if self.threshold is not None:
                raise UserError("--threshold says when LSBs are read: give --bits MSB+LSB, such as 6+4")
            return None
        return Quantization.parse(self.bits, **({} if self.threshold is None else {"threshold": self.threshold}))

    def policy(self, layers: int, heads: int, quantization: Quantization | None) -> PruningPolicy:
        """For a model; all tokens are averaged behind the last layer, so that none is protected."""
        return PruningPolicy(
            tokens=_falling("tokens", self.tokens, layers),
            heads=_falling("heads", _share(self.heads, heads), layers),
            values=Schedule(shares=(self.values,) * layers),
            quantization=quantization,
            protect_first=0,
        )

    def settings(self) -> dict[str, Any]:
        """Plain data."""
        return {name: value for name, value in asdict(self).items() if name != "output"}


def _check_ratio(option: str, ratio: float) -> None:
    if not 0 < ratio <= 1:
        raise UserError(f"--{option} must be above 0 and at most 1, not {ratio}")


def _share(text: str, heads: int) -> float:
    """`"0.5"` or, of 12 heads, `"6"` -> 0.5."""
    if text.isdecimal():
        if not 1 <= int(text) <= heads:
            raise UserError(f"--heads must be 1 to {heads}, as many as the model has, or a ratio, not {text}")
        return int(text) / heads
    try:
        ratio = float(text)
    except ValueError:
        raise UserError(f"--heads must be a number of heads, or a ratio such as 0.5, not {text!r}") from None
    _check_ratio("heads", ratio)
    return ratio


def _falling(option: str, ratio: float, layers: int) -> Schedule | None:
    """Fewer and fewer from the second layer on."""
    if ratio == 1:
        return None
    if layers == 1:
        raise UserError(f"--{option} below 1 needs 2 layers or more: before layer 0 has run no score is known")
    return Schedule.linear(layers, last=ratio)


def run_job(job: EncodeJob, *, progress: Progress) -> EncodeReport:
    """Check the arguments, load the model, compile and run it.

    Raises `UserError` before anything long begins, `SimulationError` when the hardware misbehaves.
    """
    arch, pattern, quantization = load(job.arch), Pattern.parse(job.sparsity), job.quantization
    check_engine(arch)
    memory = MemoryModel(stalls=job.stalls, seed=job.seed)
    progress("loading the model")
    example = minilm_example(job.text) if job.model == MINILM else function_example(job.model, job.seed)
    subject = prepare(example, job.layers)
    progress("scheduling")
    policy = job.policy(subject.layers, subject.heads, quantization)
    program = compile_encoder(subject.graph, arch, policy, subject.magnitudes, pattern=pattern)
    if job.output is None:
        return _run(job, program, subject, memory, progress)
    with output_folder(job.output) as partial:
        report = _run(job, program, subject, memory, progress)
        return write_files(report, program.listing(), program.code.commands, partial, job.output)


def _run(job: EncodeJob, program: EncoderProgram, subject: Subject, memory: MemoryModel, say: Progress) -> EncodeReport:
    arch, code = program.arch, program.code
    image = program.image(subject.hidden[0].numpy())
    say("running on the golden machine")
    after = Memory({0: image})
    work, attend = watched_run(arch, code.encode(), after)
    golden = GoldenResult(after.read(0, image.size), work, None)
    say("running the cycle model")
    model = run_model(arch, code.encode(), address=code.address, attend=attend, memory=memory, event_limit=EVENT_LIMIT)
    found = _outputs(program, subject, golden)
    run, comparison = _as_run(model, golden), None
    if job.backend == "rtl":
        run, comparison = _on_rtl(program, image, golden, memory, model.cycles, say)
    return EncodeReport(
        model=job.model,
        arch=arch,
        sparsity=job.sparsity,
        dataflow=program.places.options.dataflow,
        run=run,
        golden=work,
        comparison=comparison,
        settings=job.settings(),
        instructions=len(code.commands),
        model_cycles=model.cycles,
        kept=program.kept,
        **found,
    )


def _as_run(model: ModelResult, golden: GoldenResult) -> RunResult:
    """What RTL would have given."""
    left = np.frombuffer(golden.memory, np.uint8)
    return RunResult(memory=left, status=Status(Cause.NONE, None, 0), **vars(model))


def _on_rtl(
    program: EncoderProgram, image: np.ndarray, golden: GoldenResult, memory: MemoryModel, cycles: int, say: Progress
) -> tuple[RunResult, Comparison]:
    simulator = build(program.arch, progress=say)
    say("running on RTL")
    run = simulator.run(
        image,
        program=program.code.address,
        count=len(program.code.commands),
        memory=memory,
        timeout_cycles=2 * cycles + SPARE_CYCLES,
        progress=lambda text: say(f"running on RTL: {text}"),
    )
    return run, check_run(run, golden, 0)


def _outputs(program: EncoderProgram, subject: Subject, golden: GoldenResult) -> dict[str, Any]:
    """Hidden states, survivors, and how far they are from float32. Raises `UserError` unless all are finite."""
    left = np.frombuffer(golden.memory, np.uint8)
    hidden, survivors = program.read_output(left), program.survivors(left)
    if not np.isfinite(hidden).all():
        raise UserError(f"hidden states grow beyond {program.arch.array.operand}: the model's weights are too large")
    mean, plain = torch.from_numpy(hidden).mean(0), subject.plain
    return {
        "outputs": {"hidden": hidden, "survivors": survivors},
        "survivors": tuple(survivors.tolist()),
        "words": tuple(subject.words[place] for place in survivors) if subject.words else (),
        "cosine": float(cosine_similarity(mean, plain.mean(0), dim=0)),
        "error": float(np.abs(hidden - plain.numpy()[survivors]).max()),
    }
