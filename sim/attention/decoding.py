"""A whole decoder with random weights, token by token: `python -m sim.attention.decoding`.

GPT-2-small-shaped by default: 12 layers, 12 heads, 768. Projections and feed-forward parts on the array, attention by
ATTEND, both programs of a sequence on the golden machine; cycles of a token by the cycle model, and the bytes that it
moves, with nothing pruned and with tokens, heads, values, bits and weights pruned one after the other.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from transformers import GPT2Config, GPT2Model

from hwgen.arch import Arch, UserError, load
from models.attention import PruningPolicy, Quantization, Schedule
from models.attention.calibrate import calibrate
from models.attention.policy import HEADS_UNPRUNED, TOKENS_UNPRUNED, unpruned_layers
from models.machine import Machine
from models.pattern import Pattern
from models.recipes.accuracy import write
from scheduler.attention.capture import capture_encoder
from scheduler.attention.decoder import DecoderProgram, compile_decoder
from scheduler.attention.encoders import encoder_of
from sim.attention.counted import counted_run, traffic
from sim.console import print_error, progress, standard_output

FOLDER = Path("build/attention")
LAST = {"tokens": (0.2, TOKENS_UNPRUNED), "heads": (0.8, HEADS_UNPRUNED)}
"""Keep ratio of the last layer, and the share of the layers that keep all; linear in between."""
VALUES = 0.5
"""Keep ratio of values, in each layer."""
COLUMNS = ("step", "cycles a token", "", "of them ATTEND", "kbytes a token", "", "attention", "other ATTEND", "array")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is pruned of the decoder."""

    name: str
    pruned: tuple[str, ...] = ()
    bits: str | None = None
    pattern: Pattern | None = None

    def policy(self, layers: int, heads: int, room: int) -> PruningPolicy:
        """Shares as caps, of all tokens of the longest sequence and of all heads."""
        schedules = {}
        for name, of in {"tokens": room, "heads": heads}.items():
            if name in self.pruned:
                last, unpruned = LAST[name]
                shares = Schedule.linear(layers, last=last, first=unpruned_layers(layers, unpruned)).shares
                schedules[name] = Schedule(caps=tuple(ceil(share * of) for share in shares))
        if "values" in self.pruned:
            schedules["values"] = Schedule(shares=(VALUES,) * layers)
        return PruningPolicy(**schedules, quantization=Quantization.parse(self.bits) if self.bits else None)


SETTINGS = (
    Setting(name="nothing pruned, 16 bits"),
    Setting(name="+ cascade of tokens", pruned=("tokens",)),
    Setting(name="+ cascade of heads", pruned=("tokens", "heads")),
    Setting(name="+ local values", pruned=("tokens", "heads", "values")),
    Setting(name="+ progressive 6 + 4 bits", pruned=("tokens", "heads", "values"), bits="6+4"),
    Setting(name="+ 2:8 weights", pruned=("tokens", "heads", "values"), bits="6+4", pattern=Pattern(2, 8)),
)


@dataclass
class Subject:
    """A decoder with random weights and a random sequence for it."""

    layers: int
    heads: int
    width: int
    prompt: int
    tokens: int
    arch: Arch
    hidden: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        sizes = {"n_layer": self.layers, "n_head": self.heads, "n_embd": self.width, "n_positions": self.room}
        model = GPT2Model(GPT2Config(**sizes, vocab_size=512, bos_token_id=0, eos_token_id=0)).eval()
        decoder, words = encoder_of(model), {"input_ids": torch.randint(0, 512, (1, self.room))}
        with torch.no_grad():
            hidden = decoder.embed(**words)
        self.graphs = tuple(capture_encoder(decoder.body, hidden[:, :length]) for length in (self.prompt, 1))
        self.magnitudes = calibrate(model, [words])
        self.hidden = hidden[0].numpy()

    @property
    def room(self) -> int:
        """Tokens of the whole sequence."""
        return self.prompt + self.tokens

    def program(self, setting: Setting) -> DecoderProgram:
        """Both programs of a setting."""
        policy = setting.policy(self.layers, self.heads, self.room)
        return compile_decoder(self.graphs, self.arch, policy, self.magnitudes, room=self.room, pattern=setting.pattern)


def measure(subject: Subject, setting: Setting, tell: Callable[[str], None]) -> dict[str, Any]:
    """A row of the table: means over the tokens behind the prompt."""
    tell(f"{setting.name}: prompt of {subject.prompt}")
    program = subject.program(setting)
    machine = Machine(subject.arch, {0: program.image(subject.hidden[: subject.prompt])})
    machine.run(program.prompt.code.encode())
    memory, size, counted = machine.memory, program.memory_size, []
    for position in range(subject.prompt, subject.room):
        tell(f"{setting.name}: token {position - subject.prompt + 1} of {subject.tokens}")
        (image,) = memory.read_rows(0, 1, size, size)
        program.write_token(image, position, subject.hidden[position : position + 1])
        memory.write(0, image)
        moved = traffic(program.token, memory)
        counted.append(counted_run(program.token, memory) | moved)
    means = {kind: round(sum(one[kind] for one in counted) / len(counted)) for kind in counted[0]}
    return {"step": setting.name, "arch": subject.arch.name, "prompt": subject.prompt, "tokens": subject.tokens} | means


def measure_all(subject: Subject, tell: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """The rows of the table, one after the other."""
    for setting in SETTINGS:
        yield measure(subject, setting, tell)


def markdown(rows: list[dict[str, Any]]) -> str:
    """A table; factors are those of the first row."""
    lines = [f"| {' | '.join(COLUMNS)} |", "| --- |" + " ---: |" * (len(COLUMNS) - 1)]
    for row in rows:
        cells = [row["step"]]
        for kind, unit in (("cycles", 1), ("bytes", 1000)):
            cells += [f"{row[kind] / unit:,.0f}", f"{rows[0][kind] / row[kind]:.2f}x"]
        cells[3:3] = [f"{row['cycles_attend']:,}"]
        cells += [f"{row[kind] / 1000:,.0f}" for kind in ("attention", "services", "array")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(
    prompt: Annotated[int, typer.Option(help="tokens of the prompt")] = 240,
    tokens: Annotated[int, typer.Option(help="tokens behind it")] = 16,
    layers: Annotated[int, typer.Option()] = 12,
    heads: Annotated[int, typer.Option()] = 12,
    width: Annotated[int, typer.Option(help="elements of a hidden state")] = 768,
    arch: Annotated[str, typer.Option(help="preset or .yaml file with `attention`")] = "vcu1525",
    output: Annotated[Path, typer.Option("-o", help="folder of decoding.json and .md")] = FOLDER,
) -> None:
    """Print cycles and bytes of a token of a GPT-2-shaped decoder, as Markdown."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        rows: list[dict[str, Any]] = []
        with progress() as tell:
            subject = Subject(layers, heads, width, prompt, tokens, load(arch))
            for row in measure_all(subject, tell):
                rows.append(row)
                write(output / "decoding.json", json.dumps(rows, indent=2) + "\n")
                write(output / "decoding.md", markdown(rows))
        with standard_output() as console:
            console.print(markdown(rows), end="", markup=False, highlight=False, soft_wrap=True)
    except UserError as error:
        print_error(str(error))
        raise typer.Exit(2) from None


if __name__ == "__main__":
    typer.run(main)
