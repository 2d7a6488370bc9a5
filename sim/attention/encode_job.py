"""What the command line's `encode` asks for, turned into a checked run of an encoder with pruned attention."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch.nn.functional import cosine_similarity

from scheduler.attention.lower import compile_encoder
from scheduler.attention.program import EncoderProgram
from sim.attention.checked import CheckedRuns, Foretold, finite
from sim.attention.encode_example import MINILM, Subject, minilm_example, prepare
from sim.attention.encode_report import EncodeReport
from sim.attention.example import function_example
from sim.attention.pruned_job import PrunedJob
from sim.files import output_folder
from sim.memory import MemoryModel
from sim.simulate import write_files
from sim.verilate import Progress


@dataclass(frozen=True, kw_only=True)
class EncodeJob(PrunedJob):
    """The arguments of `sparseloom encode`; `run_job` checks those that depend on the model."""

    named: ClassVar[str] = MINILM


def run_job(job: EncodeJob, *, progress: Progress) -> EncodeReport:
    """Check the arguments, load the model, compile and run it.

    Raises `UserError` before anything long begins, `SimulationError` when the hardware misbehaves.
    """
    arch, memory = job.machine()
    progress("loading the model")
    example = minilm_example(job.text) if job.model == MINILM else function_example(job)
    subject = prepare(example, job.layers)
    progress("scheduling")
    policy = job.policy(subject.layers, subject.heads)
    program = compile_encoder(subject.graph, arch, policy, subject.magnitudes, pattern=job.pattern())
    if job.output is None:
        return _run(job, program, subject, memory, progress)
    with output_folder(job.output) as partial:
        report = _run(job, program, subject, memory, progress)
        return write_files(report, program.listing(), program.code.commands, partial, job.output)


def _run(job: EncodeJob, program: EncoderProgram, subject: Subject, memory: MemoryModel, say: Progress) -> EncodeReport:
    image = program.image(subject.hidden[0].numpy())
    with CheckedRuns(program.arch, memory, rtl=job.backend == "rtl", progress=say) as runs:
        said = runs.foretell(program.code, image)
        found = _outputs(program, subject, said)
        checked = runs.carry_out(said)
    return EncodeReport(
        model=job.model,
        arch=program.arch,
        sparsity=job.sparsity,
        dataflow=program.places.options.dataflow,
        run=checked.run,
        golden=checked.work,
        comparison=checked.comparison,
        settings=job.settings(),
        instructions=len(program.code.commands),
        model_cycles=checked.model_cycles,
        kept=program.kept,
        **found,
    )


def _outputs(program: EncoderProgram, subject: Subject, said: Foretold) -> dict[str, Any]:
    """Hidden states, survivors, and how far they are from float32. Raises `UserError` unless all are finite."""
    hidden, survivors = finite(program, program.read_output(said.memory)), program.survivors(said.memory)
    mean, plain = torch.from_numpy(hidden).mean(0), subject.plain
    return {
        "outputs": {"hidden": hidden, "survivors": survivors},
        "survivors": tuple(survivors.tolist()),
        "words": tuple(subject.words[place] for place in survivors) if subject.words else (),
        "cosine": float(cosine_similarity(mean, plain.mean(0), dim=0)),
        "error": float(np.abs(hidden - plain.numpy()[survivors]).max()),
    }
