"""What a simulation found: cycles, what each engine did, traffic, comparison with golden; as tables and as JSON."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hwgen.arch import Arch
from hwgen.arch.isa import Engine, engines
from hwgen.arch.registers import TENSOR_STATE_DOC, TensorState
from models.machine import MachineResult
from sim.runner import RunResult
from sim.timeline import state_name


@dataclass(frozen=True)
class Comparison:
    """Words of external memory that the run changed or should have changed, RTL against the golden machine."""

    words: int
    """32-bit words compared: the whole memory image."""
    different: int
    first: str = ""
    """Where the first difference is, and both values."""

    @property
    def equal(self) -> bool:
        """True when every word is the same."""
        return self.different == 0


@dataclass(frozen=True)
class Report:
    """A run of a program, and how it compares with the golden machine."""

    model: str
    arch: Arch
    sparsity: str
    dataflow: str
    run: RunResult
    golden: MachineResult | None
    comparison: Comparison | None
    """None when the comparison was not asked for."""
    outputs: dict[str, np.ndarray] = field(repr=False)
    files: dict[str, Path] = field(default_factory=dict)
    """What was written, by kind."""

    @property
    def cycles(self) -> int:
        """Cycles from start to done."""
        return self.run.cycles

    @property
    def utilisation(self) -> float:
        """Share of all cycles in which every processing element took a product."""
        return self.run.counters["TENSOR_BUSY"] / max(self.cycles, 1)

    @property
    def tensor_cycles(self) -> dict[str, int]:
        """Cycles of the tensor engine by state, from the counters; they add up to the cycles of the run."""
        return {state.name.lower(): self.run.counters[f"TENSOR_{state.name}"] for state in TensorState}

    @property
    def bytes_moved(self) -> int:
        """Bytes read from and written to external memory, program included."""
        return (self.run.counters["READ_BEATS"] + self.run.counters["WRITE_BEATS"]) * self.arch.beat_bytes

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dumps`; `outputs` are left out."""
        return {
            "model": self.model,
            "arch": self.arch.name,
            "sparsity": self.sparsity,
            "dataflow": self.dataflow,
            "status": str(self.run.status),
            "cycles": self.cycles,
            "microseconds": self.cycles / self.arch.clock_mhz,
            "utilisation": self.utilisation,
            "tensor_cycles": self.tensor_cycles,
            "engines": self._engine_states(),
            "memory": self._memory(),
            "roofline": self._roofline(),
            "comparison": None if self.comparison is None else vars(self.comparison) | {"equal": self.comparison.equal},
            "files": {kind: str(path) for kind, path in self.files.items()},
        }

    def _engine_states(self) -> dict[str, dict[str, int]]:
        """Cycles with an instruction under way, and in each state that occurred.

        The tensor engine's states are those of `tensor_cycles`, and add up to the cycles of the run. The others' are
        seen on the `activity` port from the host's start to the interrupt, 3 cycles more, in which they are idle.
        """
        table = {}
        for engine in engines(self.arch):
            if engine is Engine.TENSOR:
                states = {name: cycles for name, cycles in self.tensor_cycles.items() if cycles}
            else:
                states = {state_name(engine, i): int(n) for i, n in enumerate(self.run.states[engine]) if n}
            table[engine.name.lower()] = {"executing": self.run.counters[f"BUSY_{engine.name}"], **states}
        return table

    def _memory(self) -> dict[str, Any]:
        counters, cycles = self.run.counters, max(self.cycles, 1)
        beats = {"read_beats": counters["READ_BEATS"], "write_beats": counters["WRITE_BEATS"]}
        return {**beats, "bytes": self.bytes_moved, "bytes_per_cycle": self.bytes_moved / cycles}

    def _roofline(self) -> dict[str, Any]:
        """Where the run lies under the limits of array and memory port; empty without the golden machine."""
        if self.golden is None:
            return {}
        macs, cycles = self.golden.useful_macs, max(self.cycles, 1)
        floors = {"array_beats": self.golden.beats, "read_beats": self.run.counters["READ_BEATS"]}
        floors["write_beats"] = self.run.counters["WRITE_BEATS"]
        limit = max(floors, key=lambda name: floors[name])
        return {
            **floors,
            "useful_macs": macs,
            "macs_per_cycle": macs / cycles,
            "peak_macs_per_cycle": self.arch.macs,
            "macs_per_byte": macs / max(self.bytes_moved, 1),
            "limited_by": limit,
            "share_of_limit": floors[limit] / cycles,
        }


def print_report(report: Report, console: Console) -> None:
    """Print the tables of a report."""
    console.print(_summary(report))
    console.print(_tensor_table(report))
    console.print(_engine_table(report))


def grid(title: str) -> Table:
    """A table of names and what belongs to them, to be filled."""
    table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column()
    return table


def _summary(report: Report) -> Table:
    table = grid(f"{escape(report.model)} on {report.arch.name}, {report.sparsity}, dataflow {report.dataflow}")
    time = report.cycles / report.arch.clock_mhz
    table.add_row("result", str(report.run.status))
    table.add_row("cycles", f"{report.cycles:,} ({time:,.1f} us at {report.arch.clock_mhz} MHz)")
    table.add_row("array busy", f"{report.utilisation:.1%} of the cycles")
    memory = report.to_json()["memory"]
    traffic = f"{memory['read_beats']:,} beats read, {memory['write_beats']:,} written, "
    table.add_row("memory", traffic + f"{memory['bytes_per_cycle']:.1f} of {report.arch.beat_bytes} B/cycle each way")
    roofline = report.to_json()["roofline"]
    if roofline:
        work = f"{roofline['useful_macs']:,} products, {roofline['macs_per_cycle']:.1f} per cycle "
        work += f"(array: {roofline['peak_macs_per_cycle']:,}), {roofline['macs_per_byte']:.1f} per byte"
        table.add_row("work", work)
        limit = roofline["limited_by"].replace("_", " ")
        table.add_row(
            "nearest limit", f"{limit}: {roofline[roofline['limited_by']]:,} = {roofline['share_of_limit']:.1%}"
        )
    table.add_row("golden machine", _verdict(report.comparison))
    for kind, path in report.files.items():
        table.add_row(kind, escape(str(path)))
    return table


def _verdict(comparison: Comparison | None) -> str:
    if comparison is None:
        return "not compared"
    if comparison.equal:
        return f"all {comparison.words:,} words of memory equal"
    return f"[red]{comparison.different:,} of {comparison.words:,} words differ[/red], first {escape(comparison.first)}"


def _tensor_table(report: Report) -> Table:
    table = Table(title="tensor engine", title_justify="left")
    for name, side in (("state", "left"), ("cycles", "right"), ("share", "right"), ("meaning", "left")):
        table.add_column(name, justify=side)
    total = sum(report.tensor_cycles.values())
    for state, cycles in zip(TensorState, report.tensor_cycles.values()):
        table.add_row(state.name.lower(), f"{cycles:,}", f"{cycles / max(total, 1):.1%}", TENSOR_STATE_DOC[state])
    table.add_section()
    table.add_row("total", f"{total:,}", "", "")
    return table


def _engine_table(report: Report) -> Table:
    table = Table(title="engines", title_justify="left")
    table.add_column("engine")
    table.add_column("executing", justify="right")
    table.add_column("share", justify="right")
    table.add_column("cycles in each state")
    for name, row in report.to_json()["engines"].items():
        states = ", ".join(f"{state} {cycles:,}" for state, cycles in row.items() if state != "executing")
        share = row["executing"] / max(report.cycles, 1)
        table.add_row(name, f"{row['executing']:,}", f"{share:.1%}", states)
    return table


def compare(actual: np.ndarray, golden: bytes, base: int) -> Comparison:
    """Compare two memory images word by word; sizes must be equal and multiples of 4 bytes."""
    mine, theirs = (np.frombuffer(data, "<u4") for data in (actual.tobytes(), golden))
    wrong = np.flatnonzero(mine != theirs)
    first = ""
    if wrong.size:
        at = int(wrong[0])
        first = f"at {base + 4 * at:#x}: RTL {mine[at]:#010x}, golden {theirs[at]:#010x}"
    return Comparison(mine.size, int(wrong.size), first)
