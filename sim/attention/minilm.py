"""MiniLM with trained weights on the golden machine, pruned and quantised: `python -m sim.attention.minilm`.

Sentence embeddings of programs that run all six layers, against the plain model in float32 and against the algorithm in
PyTorch with the same policy and scales; cycles of these programs by the cycle model, and what they move to and from
external memory.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor
from torch.nn.functional import normalize

from hwgen.arch import Arch, UserError, load
from hwgen.arch.isa import engines
from models.attention.attention import Magnitudes
from models.attention.calibrate import calibrate
from models.attention.embedding import MiniLM, agreement, texts
from models.attention.embedding import load as load_minilm
from models.attention.minilm import RATIOS, Setting, json_text, numbers
from models.attention.quantize import SPLITS
from models.attention.wrapper import prune
from models.memory import Memory
from models.recipes.accuracy import write
from scheduler.attention.capture import capture_encoder
from scheduler.attention.encoders import Encoder, encoder_of
from scheduler.attention.lower import check_engine, compile_encoder
from scheduler.attention.program import EncoderProgram
from scheduler.training.graph.ir import TrainingGraph
from sim.attention.counted import counted_run, traffic
from sim.attention.encode_example import MINILM
from sim.attention.encode_job import EncodeJob, run_job
from sim.console import print_error, progress, standard_output

FOLDER = Path("build/attention")
CALIBRATION = {"paragraphs": "sentences", "sentences": "paragraphs"}
"""Steps come from other texts than those that are measured."""
SETTINGS = (
    Setting(bits="12+4", threshold=2),
    *(Setting(bits=f"{msb}+{lsb}") for msb, lsb in reversed(SPLITS)),
    Setting(bits="6+4", threshold=0),
    *(Setting(tokens=ratio, values=0.8, bits="6+4") for ratio in numbers(RATIOS)),
    Setting(tokens=0.6, heads=10 / 12, values=0.8, bits="6+4"),
)
"""Nothing pruned, with all LSBs; bit splits; without LSBs; keep ratios of tokens; heads too."""
COLUMNS = (
    *("tokens", "heads", "values", "bits", "LSBs if", "cosine", "least", "rank", "algorithm"),
    *("cycles", "of them ATTEND", "kbytes", "attention", "other ATTEND", "LOAD, STORE", "instructions"),
)


LAST_SHARE = 0.6
"""Tokens that the last of several layers keeps on RTL."""


@dataclass
class Subject:
    """MiniLM, calibrated, and the graph of each length that has been captured."""

    minilm: MiniLM
    encoder: Encoder
    magnitudes: list[Magnitudes]
    graphs: dict[int, TrainingGraph] = field(default_factory=dict)

    @classmethod
    def calibrated(cls, minilm: MiniLM, name: str) -> "Subject":
        """With steps for a set of texts."""
        magnitudes = calibrate_on(minilm, minilm.tokens(texts(CALIBRATION[name])))
        return cls(minilm, encoder_of(minilm.model), magnitudes)

    def hidden(self, tokens: Tensor) -> Tensor:
        """What the host computes: embeddings [1, T, 384]."""
        with torch.no_grad():
            return self.encoder.embed(input_ids=tokens)

    def program(self, hidden: Tensor, arch: Arch, setting: Setting) -> EncoderProgram:
        """For the length of a text."""
        length = hidden.shape[1]
        if length not in self.graphs:
            self.graphs[length] = capture_encoder(self.encoder.body, hidden)
        return compile_encoder(self.graphs[length], arch, setting.policy(), self.magnitudes)

    def algorithm(self, tokens: Tensor, setting: Setting) -> Tensor:
        """Embedding by PyTorch with the same policy and steps."""
        with torch.no_grad(), prune(self.minilm.model, setting.policy(), self.magnitudes) as pruned:
            return pruned.mean(self.minilm.model(input_ids=tokens).last_hidden_state)[0]


def calibrate_on(minilm: MiniLM, tokens: list[Tensor]) -> list[Magnitudes]:
    """Largest magnitudes of each layer over some texts."""
    return calibrate(minilm.model, [{"input_ids": ids} for ids in tokens])


def embed(program: EncoderProgram, hidden: Tensor) -> tuple[Tensor, dict[str, int]]:
    """Mean of the survivors' hidden states after a run on the golden machine, and what the run takes."""
    memory = Memory({0: program.image(hidden[0].numpy())})
    moved = traffic(program, memory)
    taken = counted_run(program, memory) | moved
    left = np.frombuffer(memory.read(0, program.memory_size), np.uint8)
    return torch.from_numpy(program.read_output(left).mean(axis=0)), taken


def measure(name: str, settings: list[Setting], arch: Arch, tell: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """A row of the table for each setting on a set of texts."""
    check_engine(arch)
    minilm = load_minilm()
    subject, tokens = Subject.calibrated(minilm, name), minilm.tokens(texts(name))
    plain, _ = minilm.embed(tokens)
    inputs = [subject.hidden(ids) for ids in tokens]
    for place, setting in enumerate(settings):
        rows, counted = [], []
        for number, hidden in enumerate(inputs):
            tell(f"row {place + 1} of {len(settings)}: text {number + 1} of {len(inputs)}")
            program = subject.program(hidden, arch, setting)
            embedding, taken = embed(program, hidden)
            rows.append(embedding)
            counted.append(taken)
        embedded = normalize(torch.stack(rows), dim=1)
        wanted = normalize(torch.stack([subject.algorithm(ids, setting) for ids in tokens]), dim=1)
        yield (
            {"texts": name, "arch": arch.name}
            | asdict(setting)
            | asdict(agreement(embedded, plain))
            | {"algorithm": float((embedded * wanted).sum(1).min())}
            | {kind: sum(one[kind] for one in counted) for kind in counted[0]}
        )


def markdown(rows: list[dict[str, Any]]) -> str:
    """A table."""
    return "\n".join([f"| {' | '.join(COLUMNS)} |", "|" + " --- |" * len(COLUMNS), *map(_line, rows)]) + "\n"


_RULES = {0: "never", 2: "always"}


def _line(row: dict[str, Any]) -> str:
    cells = [
        f"{row['tokens']:.1f}",
        f"{round(row['heads'] * 12)}",
        f"{row['values']:.1f}",
        row["bits"],
        _RULES.get(row["threshold"], f"max < {row['threshold']}"),
        f"{row['cosine']:.4f}",
        f"{row['cosine_min']:.3f}",
        f"{row['rank']:.3f}",
        f"{row['algorithm']:.4f}",
        *(f"{row[name]:,}" for name in ("cycles", "cycles_attend")),
        *(f"{row[name] / 1000:,.0f}" for name in ("bytes", "attention", "services", "array")),
        f"{row['instructions']:,}",
    ]
    return "| " + " | ".join(cells) + " |"


def _table(name: str, first: int, arch: Arch, output: Path) -> str:
    """The table, in files too, whole rows of which are there as soon as they are measured."""
    output.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    with progress() as tell:
        for row in measure(name, list(SETTINGS[:first]), arch, tell):
            rows.append(row)
            write(output / "minilm_machine.json", json_text(rows))
            write(output / "minilm_machine.md", markdown(rows))
    return markdown(rows)


def _on_rtl(layers: int, arch: str) -> str:
    """The first layers over the first sentence; of several the last one keeps fewer tokens."""
    tokens = LAST_SHARE if layers > 1 else 1.0
    job = EncodeJob(model=MINILM, arch=arch, layers=layers, tokens=tokens, values=0.8, bits="6+4")
    with progress() as tell:
        found = run_job(job, progress=tell)
    if not found.comparison.equal:
        raise UserError(f"RTL and golden differ: {found.comparison.first}")
    busy = {engine.name: found.run.counters[f"BUSY_{engine.name}"] for engine in engines(found.arch)}
    shares = ", ".join(f"{name} {cycles / found.cycles:.1%}" for name, cycles in busy.items())
    return (
        f"{found.instructions:,} instructions, {found.cycles:,} cycles; busy: {shares}\n"
        f"{found.model_cycles:,} cycles by the cycle model\n"
        f"{found.comparison.words:,} words of memory: the same on golden\n"
        f"hidden states are off by at most {found.error:.4f} from float32 with nothing pruned\n"
    )


def main(
    name: Annotated[str, typer.Option("--texts", help="paragraphs or sentences")] = "paragraphs",
    arch: Annotated[str | None, typer.Option(help="preset or .yaml file; vcu1525, or on RTL small_attention")] = None,
    first: Annotated[int, typer.Option(help="only so many of the settings")] = len(SETTINGS),
    output: Annotated[Path, typer.Option("-o", help="folder of minilm_machine.json and .md")] = FOLDER,
    layers: Annotated[int | None, typer.Option("--rtl-layers", help="so many layers on RTL instead")] = None,
) -> None:
    """Print accuracy, cycles and memory traffic of MiniLM for keep ratios and bits, as Markdown.

    Embeddings are those of the golden machine, cycles those of the cycle model. With --rtl-layers: run the first layers
    on the Verilated accelerator and compare them with both.
    """
    try:
        if name not in CALIBRATION:
            raise UserError(f"unknown texts {name!r}: there are {', '.join(CALIBRATION)}")
        if not 1 <= first <= len(SETTINGS):
            raise UserError(f"1 to {len(SETTINGS)} settings can be measured, not {first}")
        if layers is not None:
            text = _on_rtl(layers, arch or "small_attention")
        else:
            text = _table(name, first, load(arch or "vcu1525"), output)
        with standard_output() as console:
            console.print(text, end="", markup=False, highlight=False, soft_wrap=True)
    except UserError as error:
        print_error(str(error))
        raise typer.Exit(2) from None


if __name__ == "__main__":
    typer.run(main)
