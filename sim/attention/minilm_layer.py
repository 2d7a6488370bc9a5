"""The first layers of MiniLM on the Verilated accelerator: every word of memory is that of the golden machine, cycles
are those of the cycle model.

`python -m sim.attention.minilm --rtl-layers 1`
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from hwgen.arch import Arch, load
from hwgen.arch.isa import engines
from models.attention.calibrate import calibrate
from models.attention.embedding import load as load_minilm
from models.attention.embedding import texts
from models.attention.policy import PruningPolicy, Schedule
from models.attention.quantize import Quantization
from models.memory import Memory
from scheduler.attention.capture import capture_encoder
from scheduler.attention.encoders import encoder_of
from scheduler.attention.lower import compile_encoder
from scheduler.attention.program import EncoderProgram
from sim.attention.facts import attend_jobs
from sim.check import check_run, run_golden
from sim.cycles import run_model
from sim.report import Comparison
from sim.runner import RunResult, build

TIMEOUT = 100_000_000
LAST_SHARE = 0.6
"""Tokens that the last of several layers keeps."""


@dataclass(frozen=True)
class LayerRun:
    """A run of the program on RTL, compared with golden."""

    program: EncoderProgram
    run: RunResult
    comparison: Comparison
    error: float
    """Largest difference of hidden states from the model in float32, in which nothing is pruned."""
    cycles: int
    """By the cycle model."""

    def lines(self) -> list[str]:
        """For people."""
        busy = {engine.name: self.run.counters[f"BUSY_{engine.name}"] for engine in engines(self.program.arch)}
        shares = ", ".join(f"{name} {cycles / self.run.cycles:.1%}" for name, cycles in busy.items())
        differ = self.comparison
        equal = "the same on golden" if differ.equal else f"{differ.different:,} differ, the first: {differ.first}"
        return [
            f"{len(self.program.code.commands):,} instructions, {self.run.cycles:,} cycles; busy: {shares}",
            f"{self.cycles:,} cycles by the cycle model",
            f"{differ.words:,} words of memory: {equal}",
            f"hidden states are off by at most {self.error:.4f} from float32 with nothing pruned",
        ]


def small() -> Arch:
    """An accelerator that is quick to build, with room for MiniLM's heads and longest rows."""
    tiny = load("tiny_attention")
    attention = replace(tiny.attention, max_heads=12)
    return replace(tiny, name="minilm", scratchpads=replace(tiny.scratchpads, wgt_depth=4096), attention=attention)


def policy_of(layers: int) -> PruningPolicy:
    """6+4 bits, values 0.8; with several layers, fewer and fewer tokens."""
    tokens = Schedule.linear(layers, last=LAST_SHARE) if layers > 1 else None
    values, bits = Schedule(shares=(0.8,) * layers), Quantization.parse("6+4", threshold=0.1)
    return PruningPolicy(tokens=tokens, values=values, quantization=bits, protect_first=0)


def run_layers(count: int, arch: Arch | None, tell: Callable[[str], None]) -> LayerRun:
    """Run the first `count` layers over the first sentence; `arch` None: `small`.

    Raises `UserError` if they do not fit, `SimulationError` when the hardware misbehaves.
    """
    arch = arch or small()
    minilm = load_minilm()
    tokens = minilm.tokens(texts("sentences"))
    encoder = encoder_of(minilm.model, count)
    with torch.no_grad():
        hidden = encoder.embed(input_ids=tokens[0])
        plain = encoder.body(hidden)[0].numpy()
    magnitudes = calibrate(minilm.model, [{"input_ids": ids} for ids in tokens[1:]])[:count]
    program = compile_encoder(capture_encoder(encoder.body, hidden), arch, policy_of(count), magnitudes)
    image, code = program.image(hidden[0].numpy()), program.code
    simulator = build(arch, progress=tell)
    tell("running on RTL")
    run = simulator.run(
        image,
        program=code.address,
        count=len(code.commands),
        timeout_cycles=TIMEOUT,
        progress=lambda text: tell(f"running on RTL: {text}"),
    )
    tell("running on the golden machine")
    comparison = check_run(run, run_golden(arch, image, 0, code.encode()), 0)
    survivors = program.survivors(run.memory)
    error = np.abs(program.read_output(run.memory) - plain[survivors]).max()
    tell("running the cycle model")
    jobs = attend_jobs(arch, code.encode(), Memory({0: image}))
    model = run_model(arch, code.encode(), address=code.address, attend=jobs)
    return LayerRun(program, run, comparison, float(error), model.cycles)
