"""What a run of `sparseloom encode` found beside cycles and comparison: survivors, and how near the float model is."""

from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hwgen.arch.isa import Engine
from scheduler.attention.cascade import Kept
from sim.report import Report, grid, print_report


@dataclass(frozen=True, kw_only=True)
class EncodeReport(Report):
    """A run of a pruned encoder; with `backend` golden `run` is what golden machine and cycle model say."""

    settings: dict[str, Any]
    """What was asked for, by option."""
    instructions: int
    model_cycles: int
    """By the cycle model."""
    kept: tuple[Kept, ...]
    """Of each layer."""
    survivors: tuple[int, ...]
    """Positions of the tokens behind the last layer."""
    words: tuple[str, ...] = field(default=())
    """Of the survivors, if they are words."""
    cosine: float
    """Of the mean over the survivors to the mean over all tokens in float32, in which nothing is pruned."""
    error: float
    """Largest difference of hidden states of the survivors from float32."""

    @property
    def backend(self) -> str:
        """`rtl` or `golden`."""
        return self.settings["backend"]

    @property
    def busy(self) -> dict[str, int]:
        """Cycles in which every element of the array takes a product, and those in which ATTEND has a job."""
        return {"array": self.run.counters["TENSOR_BUSY"], "attend": self.run.counters[f"BUSY_{Engine.ATTEND.name}"]}

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dumps`; `outputs` are left out."""
        return super().to_json() | {
            "settings": self.settings,
            "instructions": self.instructions,
            "model_cycles": self.model_cycles,
            "busy": self.busy,
            "layers": [vars(one) for one in self.kept],
            "survivors": list(self.survivors),
            "words": list(self.words),
            "cosine": self.cosine,
            "error": self.error,
        }


def print_encode(report: EncodeReport, console: Console) -> None:
    """Print the tables of a report."""
    print_report(report, console)
    console.print(_pruning(report))


def _pruning(report: EncodeReport) -> Table:
    table = grid(f"pruned attention, {report.instructions:,} instructions")
    table.add_row("cycle model", _cycles(report))
    shares = (f"{name} {cycles:,} ({cycles / report.cycles:.1%})" for name, cycles in report.busy.items())
    table.add_row("busy cycles", ", ".join(shares))
    read, written = (report.run.counters[name] * report.arch.beat_bytes for name in ("READ_BEATS", "WRITE_BEATS"))
    table.add_row("bytes", f"{read:,} read, {written:,} written")
    table.add_row("tokens by layer", " ".join(str(one.tokens) for one in report.kept))
    table.add_row("heads by layer", " ".join(str(one.heads) for one in report.kept))
    table.add_row("survivors", escape(" ".join(report.words or map(str, report.survivors))))
    table.add_row("cosine", f"{report.cosine:.4f}, mean over the survivors to these layers in float32, nothing pruned")
    table.add_row("largest error", f"{report.error:.4f}, of a hidden state of a survivor")
    return table


def _cycles(report: EncodeReport) -> str:
    if report.backend == "golden":
        return f"{report.model_cycles:,} cycles; all counts here are its own, RTL has not run"
    if report.model_cycles == report.cycles:
        return f"{report.model_cycles:,} cycles, as many as RTL"
    return f"[red]{report.model_cycles:,} cycles, RTL takes {report.cycles:,}[/red]"
