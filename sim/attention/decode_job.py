"""What the command line's `decode` asks for: a prompt on the accelerator, then token after token, each run checked."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch.nn.functional import cosine_similarity

from hwgen.arch import UserError
from models.attention.policy import PruningPolicy, Schedule
from models.attention.structure import structure
from scheduler.attention.decoder import DecoderProgram, compile_decoder
from scheduler.attention.program import Values
from sim.attention.checked import Checked, CheckedRuns, finite
from sim.attention.decode_example import (
    GPT2_RANDOM,
    NOTE,
    Decoder,
    characters,
    gpt2_random_example,
    numbers,
    prepare,
)
from sim.attention.decode_report import Agreement, DecodeReport, TokenRun, markdown
from sim.attention.example import function_example
from sim.attention.pruned_job import PrunedJob
from sim.files import output_folder
from sim.memory import MemoryModel
from sim.timeline import write_timeline
from sim.verilate import Progress


@dataclass(frozen=True, kw_only=True)
class DecodeJob(PrunedJob):
    """The arguments of `sparseloom decode`; `run_job` checks those that depend on the model."""

    named: ClassVar[str] = GPT2_RANDOM
    new_tokens: int = 4
    """Tokens that are run after the prompt."""
    recent: int = 1
    """The last tokens, which no layer gives up."""
    forgetting: float = 1.0
    """Factor on the importance of tokens before each new one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.new_tokens < 1:
            raise UserError(f"--new-tokens must be 1 or more, not {self.new_tokens}")

    def decoder_policy(self, layers: int, heads: int, room: int) -> PruningPolicy:
        """Shares of tokens as counts, of the longest sequence: a program that is run again and again has fixed ones."""
        policy = self.policy(layers, heads)
        caps = policy.tokens and Schedule(caps=tuple(policy.tokens.count(layer, room) for layer in range(layers)))
        return replace(policy, tokens=caps, recent=self.recent, forgetting=self.forgetting)


def run_job(job: DecodeJob, *, progress: Progress) -> DecodeReport:
    """Check the arguments, load the model, compile both programs and run them.

    Raises `UserError` before anything long begins, `SimulationError` when the hardware misbehaves.
    """
    arch, memory = job.machine()
    progress("loading the model")
    example = gpt2_random_example(job.text, job.seed) if job.model == GPT2_RANDOM else function_example(job)
    decoder = prepare(example, job.layers, job.new_tokens)
    progress("scheduling")
    room, magnitudes = len(decoder.prompt) + job.new_tokens, decoder.layers.magnitudes
    policy = job.decoder_policy(len(magnitudes), structure(decoder.model).heads, room)
    program = compile_decoder(decoder.graphs, arch, policy, magnitudes, room=room, pattern=job.pattern())
    if job.output is None:
        return _run(job, decoder, program, memory, progress)[0]
    with output_folder(job.output) as partial:
        report, last = _run(job, decoder, program, memory, progress)
        return _write(report, program, last, partial, job.output)


def _run(
    job: DecodeJob, decoder: Decoder, program: DecoderProgram, memory: MemoryModel, say: Progress
) -> tuple[DecodeReport, dict[str, Checked]]:
    """The report, and the last run of each program."""
    done, last = [], {}
    with CheckedRuns(program.token.arch, memory, rtl=job.backend == "rtl", progress=say) as runs:
        for run, checked in _steps(decoder, program, runs):
            last["token" if done else "prompt"] = checked
            done.append(run)
    say("running the model in float32")
    return _report(job, decoder, program, tuple(done)), last


def _report(job: DecodeJob, decoder: Decoder, program: DecoderProgram, runs: tuple[TokenRun, ...]) -> DecodeReport:
    note, text = (NOTE, characters) if job.model == GPT2_RANDOM else ("", numbers)
    return DecodeReport(
        model=job.model,
        note=note,
        text=text,
        arch=program.token.arch,
        sparsity=job.sparsity,
        settings=job.settings(),
        instructions={name: len(getattr(program, name).code.commands) for name in ("prompt", "token")},
        heads=tuple(one.heads for one in program.prompt.kept),
        prompt=decoder.prompt,
        runs=runs,
        agreement=tuple(_agreement(decoder, runs)),
    )


def _steps(decoder: Decoder, program: DecoderProgram, runs: CheckedRuns) -> Iterator[tuple[TokenRun, Checked]]:
    """Run the prompt, then each token; ends early behind a run that differs from the golden machine."""
    ids, part, image = list(decoder.prompt), program.prompt, program.image(decoder.hidden)
    while True:
        runs.about = f"position {len(ids) - 1} of {program.room - 1}: "
        said = runs.foretell(part.code, image)
        hidden = finite(part, part.read_output(said.memory)[-1:])
        checked, (chosen,) = runs.carry_out(said), decoder.choose(hidden)
        yield _token_run(program, ids, chosen, checked, hidden), checked
        if len(ids) == program.room or (checked.comparison is not None and not checked.comparison.equal):
            return
        ids.append(chosen)
        part, image = program.token, checked.run.memory.copy()
        program.write_token(image, len(ids) - 1, *decoder.token(ids))


def _token_run(program: DecoderProgram, ids: list[int], chosen: int, checked: Checked, hidden: Values) -> TokenRun:
    counters, beat = checked.run.counters, program.token.arch.beat_bytes
    kept = [one.tokens for one in program.prompt.kept]
    if len(ids) > program.prompt.input.n:
        kept = [min(most, len(ids)) for most in program.slots.capacity.most]
    return TokenRun(
        position=len(ids) - 1,
        token=ids[-1],
        chosen=chosen,
        cycles=checked.run.cycles,
        model_cycles=checked.model_cycles,
        array_busy=counters["TENSOR_BUSY"],
        attend_busy=counters["BUSY_ATTEND"],
        bytes_read=counters["READ_BEATS"] * beat,
        bytes_written=counters["WRITE_BEATS"] * beat,
        kept=tuple(kept),
        comparison=checked.comparison,
        hidden=hidden[0],
    )


def _agreement(decoder: Decoder, runs: tuple[TokenRun, ...]) -> Iterator[Agreement]:
    """Against the float model behind the same tokens, all of them at once: it is causal."""
    ids = [*decoder.prompt, *(run.token for run in runs[1:])]
    plain = decoder.plain(ids)[-len(runs) :]
    for run, row, chosen in zip(runs, plain, decoder.choose(plain), strict=True):
        cosine = cosine_similarity(torch.from_numpy(run.hidden), torch.from_numpy(row), dim=0)
        yield Agreement(float(cosine), chosen)


def _write(
    report: DecodeReport, program: DecoderProgram, last: dict[str, Checked], partial: Path, folder: Path
) -> DecodeReport:
    """Write listings, timelines, hidden states and report into the folder `partial`, which will become `folder`."""
    names = {"table": "tokens.md", "outputs": "outputs.npz", "report": "report.json"}
    for name, checked in last.items():
        part = getattr(program, name)
        names |= {f"{name} listing": f"{name}.lst", f"{name} timeline": f"{name}_timeline.json"}
        (partial / f"{name}.lst").write_text(part.listing())
        write_timeline(partial / f"{name}_timeline.json", checked.run.events, part.code.commands, title=part.arch.name)
    (partial / "tokens.md").write_text(markdown(report))
    np.savez(partial / "outputs.npz", hidden=[run.hidden for run in report.runs], chosen=report.chosen)
    report = replace(report, files={kind: folder / name for kind, name in names.items()})
    (partial / "report.json").write_text(json.dumps(report.to_json(), indent=2) + "\n")
    return report
