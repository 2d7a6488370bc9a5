"""What a run of `sparseloom decode` found: a row for the prompt and for each token, as tables, Markdown and JSON."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hwgen.arch import Arch
from scheduler.attention.program import Values
from sim.report import Comparison, grid

HOST = "embeds each token; behind the layers: last normalisation, scores of words, the largest, in float32"
LEFT = ("position", "reads", "tokens by layer", "chooses", "float32")
COLUMNS = (
    *("position", "reads", "cycles", "array", "ATTEND", "read", "written", "tokens by layer"),
    *("cosine", "chooses", "float32"),
)


@dataclass(frozen=True, kw_only=True)
class TokenRun:
    """A run of one of the programs: of the prompt, or of a token."""

    position: int
    """Of the last token that it reads, from the start of the prompt."""
    token: int
    """This token."""
    chosen: int
    """What the host chooses to follow it."""
    cycles: int
    model_cycles: int
    """By the cycle model."""
    array_busy: int
    """Cycles in which every element of the array takes a product."""
    attend_busy: int
    """Cycles in which ATTEND has a job."""
    bytes_read: int
    bytes_written: int
    kept: tuple[int, ...]
    """Tokens of the sequence that each layer keeps."""
    comparison: Comparison | None
    """All of memory with the golden machine's; None: RTL has not run."""
    hidden: Values = field(repr=False, compare=False)
    """Of this token, behind the layers: [D]."""

    def to_json(self) -> dict[str, Any]:
        """Plain data; without `hidden`."""
        return {name: value for name, value in asdict(self).items() if name != "hidden"}


@dataclass(frozen=True)
class Agreement:
    """A run against the float model, in which nothing is pruned, behind the same tokens."""

    cosine: float
    """Of the hidden states of the last token behind the layers."""
    chosen: int
    """What the float model would choose."""


@dataclass(frozen=True, kw_only=True)
class DecodeReport:
    """A prompt and the tokens after it."""

    model: str
    note: str
    """What is to be known of the model."""
    arch: Arch
    sparsity: str
    settings: dict[str, Any]
    """What was asked for, by option."""
    instructions: dict[str, int]
    """Of the programs `prompt` and `token`."""
    heads: tuple[int, ...]
    """Of each layer."""
    prompt: tuple[int, ...]
    runs: tuple[TokenRun, ...]
    """Of the prompt, then of each token; they end with one that differs from the golden machine."""
    agreement: tuple[Agreement, ...]
    """Of each run."""
    text: Callable[[Sequence[int]], str] = field(repr=False)
    """Tokens in words."""
    files: dict[str, Path] = field(default_factory=dict)
    """What was written, by kind."""

    @property
    def chosen(self) -> tuple[int, ...]:
        """What follows the prompt; the last one has not been run."""
        return tuple(run.chosen for run in self.runs)

    @property
    def comparison(self) -> Comparison | None:
        """Of all runs together."""
        found = [run.comparison for run in self.runs]
        if None in found:
            return None
        return Comparison(sum(one.words for one in found), sum(one.different for one in found), found[-1].first)

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dumps`."""
        rows = [
            run.to_json() | {"cosine": near.cosine, "chosen_float32": near.chosen}
            for run, near in zip(self.runs, self.agreement, strict=True)
        ]
        comparison = self.comparison
        return {
            "model": self.model,
            "arch": self.arch.name,
            "sparsity": self.sparsity,
            "settings": self.settings,
            "instructions": self.instructions,
            "heads": list(self.heads),
            "prompt": list(self.prompt),
            "chosen": list(self.chosen),
            "text": self.text(self.chosen),
            "runs": rows,
            "comparison": None if comparison is None else vars(comparison) | {"equal": comparison.equal},
            "files": {kind: str(path) for kind, path in self.files.items()},
        }


def cells(report: DecodeReport) -> list[tuple[str, ...]]:
    """The table, row by row."""
    rows = []
    for run, near in zip(report.runs, report.agreement, strict=True):
        first = run is report.runs[0]
        rows.append(
            (
                f"0 to {run.position}" if first else str(run.position),
                "" if first else report.text([run.token]),
                f"{run.cycles:,}",
                f"{run.array_busy / run.cycles:.1%}",
                f"{run.attend_busy / run.cycles:.1%}",
                f"{run.bytes_read:,}",
                f"{run.bytes_written:,}",
                " ".join(map(str, run.kept)),
                f"{near.cosine:.4f}",
                report.text([run.chosen]),
                "same" if near.chosen == run.chosen else report.text([near.chosen]),
            )
        )
    return rows


def markdown(report: DecodeReport) -> str:
    """The table as Markdown."""
    lines = [COLUMNS, tuple("---" if name in LEFT else "---:" for name in COLUMNS), *cells(report)]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def print_decode(report: DecodeReport, console: Console) -> None:
    """Print the tables of a report."""
    console.print(_summary(report))
    table = Table(title="shares are of the cycles, bytes those of all ports", title_justify="left")
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in LEFT else "right")
    for row in cells(report):
        table.add_row(*map(escape, row))
    console.print(table)


def _summary(report: DecodeReport) -> Table:
    table = grid(f"{escape(report.model)} on {report.arch.name}, {report.sparsity}")
    if report.note:
        table.add_row("model", report.note)
    table.add_row("prompt", escape(report.text(report.prompt)))
    table.add_row("goes on", escape(report.text(report.chosen)))
    table.add_row("host", HOST)
    table.add_row("instructions", ", ".join(f"{name} {count:,}" for name, count in report.instructions.items()))
    table.add_row("heads by layer", " ".join(map(str, report.heads)))
    table.add_row("golden machine", _verdict(report))
    table.add_row("cycle model", _cycles(report))
    same = sum(run.chosen == near.chosen for run, near in zip(report.runs, report.agreement, strict=True))
    least = min(near.cosine for near in report.agreement)
    table.add_row("float32", f"least cosine {least:.4f}, chooses the same in {same} of {len(report.runs)} runs")
    for kind, path in report.files.items():
        table.add_row(kind, escape(str(path)))
    return table


def _verdict(report: DecodeReport) -> str:
    comparison, runs = report.comparison, report.runs
    if comparison is None:
        return "not compared"
    if comparison.equal:
        return f"all {runs[0].comparison.words:,} words of memory equal after each of {len(runs)} runs"
    differ = f"{comparison.different:,} words differ after the run of position {runs[-1].position}"
    return f"[red]{differ}[/red], first {escape(comparison.first)}"


def _cycles(report: DecodeReport) -> str:
    if report.settings["backend"] == "golden":
        return "all counts here are its own, RTL has not run"
    other = [run for run in report.runs if run.cycles != run.model_cycles]
    if not other:
        return "as many cycles as RTL in each run"
    said = f"{other[0].model_cycles:,} at position {other[0].position}, RTL takes {other[0].cycles:,}"
    return f"[red]other cycles than RTL in {len(other)} runs: {said}[/red]"
