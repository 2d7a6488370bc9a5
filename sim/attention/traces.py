"""Published attention workloads on the attention core: cycles by the cycle model and on RTL.

`python -m sim.attention.traces` runs them through the cycle model, with `--rtl` those of a few ten thousand cycles on
the Verilated core too, with random data whose outputs are checked against the golden model.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from hwgen.arch import load
from hwgen.arch.attention import AttentionSizes
from sim.attention.block import AttentionBlock
from sim.attention.model import JobCycles, run_jobs
from sim.attention.trace_data import run_layers
from sim.attention.trace_jobs import LAYERS, TraceLayer, dense_layer, made_up_job, pruned_layers
from sim.attention.wide import CHANNELS, in_one_stream, last_layer, one_after_the_other
from sim.console import progress, standard_output
from sim.files import output_folder

ARCH = "vcu1525"
SIZES = load(ARCH).attention
LATENCY = 40
TOKEN = 5
"""Of the workloads of one token."""
SEED = 1
RESULTS = Path(__file__).parents[1] / "results"


@dataclass(frozen=True)
class Workload:
    """Layers that run one after the other. limit, full_limit : cycles that they may take, and at the full size.

    published : cycles of published RTL.
    """

    name: str
    layers: Sequence[TraceLayer]
    limit: int
    published: int
    full_limit: int | None = None
    on_rtl: bool = False


def workloads() -> list[Workload]:
    """The traces, and one row alone."""
    pruned = list(pruned_layers())
    token = [layer for number, layer in pruned if number == TOKEN]
    dense = [dense_layer(TOKEN)] * LAYERS
    return [
        Workload("dense query", [dense_layer(0, heads=1)], 2_900, 4_294, on_rtl=True),
        Workload("pruned token", token, 63_400, 85_059, full_limit=8_300, on_rtl=True),
        Workload("dense token", dense, 400_000, 431_418, full_limit=51_200),
        Workload("32 pruned tokens", [layer for _, layer in pruned], 1_750_000, 2_436_150),
    ]


@dataclass(frozen=True)
class Totals:
    """Of a workload; cycles from the first command to the last end."""

    cycles: int
    products_busy: int
    read_beats: int

    @classmethod
    def of(cls, jobs: Sequence[JobCycles], cycles: int) -> "Totals":
        """Sums over jobs."""
        return cls(cycles, sum(job.products_busy for job in jobs), sum(job.read_beats for job in jobs))


def modelled(layers: Sequence[TraceLayer], sizes: AttentionSizes = SIZES) -> Totals:
    """What the cycle model says of made-up rows."""
    rng = np.random.default_rng(SEED)
    jobs = run_jobs(sizes, [made_up_job(layer, sizes, rng) for layer in layers], latency=LATENCY)
    return Totals.of(jobs, jobs[-1].begins + jobs[-1].cycles)


def on_rtl(layers: Sequence[TraceLayer], block: AttentionBlock) -> dict[str, int]:
    """Cycles of the jobs on RTL and by the model for the same data, which must be the same."""
    runs = run_layers(block, list(layers), SEED, LATENCY)
    rtl, model = (sum(getattr(run, side).cycles for run in runs) for side in ("rtl", "model"))
    assert all(run.rtl.cycles == run.model.cycles for run in runs), f"RTL takes {rtl} cycles, the model {model}"
    totals = Totals.of([run.rtl for run in runs], rtl)
    return {"cycles": totals.cycles, "products_busy": totals.products_busy, "read_beats": totals.read_beats}


def full_size(workload: Workload) -> dict[str, int]:
    """Cycles at the full size, which is not built: as jobs, and as one stream of rows; of the last layer, all of its
    rows and the first alone.
    """
    jobs, stream = (run(workload.layers, SEED, LATENCY) for run in (one_after_the_other, in_one_stream))
    whole, row = last_layer(workload.layers, SEED, LATENCY)
    return {"jobs": jobs, "stream": stream, "last_layer": whole, "first_row": row, "limit": workload.full_limit}


def measure(rtl: bool) -> list[dict]:
    """Rows of the table."""
    found = []
    with progress() as say:
        block = AttentionBlock(SIZES, "attention_traces") if rtl else None
        for workload in workloads():
            say(f"{workload.name} by the cycle model")
            totals = modelled(workload.layers)
            row = {"workload": workload.name, **vars(totals), "limit": workload.limit, "published": workload.published}
            if workload.full_limit:
                row["full_size"] = full_size(workload)
            if block and workload.on_rtl:
                say(f"{workload.name} on RTL")
                row["rtl"] = on_rtl(workload.layers, block)
            found.append(row)
    return found


def table(rows: list[dict]) -> Table:
    """What is printed."""
    size = f"{SIZES.multipliers} + {SIZES.multipliers} multipliers, {SIZES.beat_bytes} bytes a cycle"
    shown = Table(title=f"{ARCH}: {size}, memory latency {LATENCY}")
    for column in ("workload", "cycles", "limit", "published RTL", "products busy", "memory busy", "on our RTL"):
        shown.add_column(column, justify="left" if column == "workload" else "right")
    for row in rows:
        numbers = (row[name] for name in ("cycles", "limit", "published", "products_busy", "read_beats"))
        rtl = f"{row['rtl']['cycles']:,}" if "rtl" in row else ""
        shown.add_row(row["workload"], *(f"{number:,}" for number in numbers), rtl)
    return shown


def full_table(rows: list[dict]) -> Table:
    """The same for the full size."""
    title = f"Not built: 512 + 512 multipliers, 512 bytes a cycle in {CHANNELS} channels"
    columns = {
        **{"layer after layer": "jobs", "rows in one stream": "stream", "limit": "limit"},
        **{"last layer": "last_layer", "its first row alone": "first_row"},
    }
    shown = Table("workload", *columns, title=title)
    for row in (row for row in rows if "full_size" in row):
        shown.add_row(row["workload"], *(f"{row['full_size'][name]:,}" for name in columns.values()))
    return shown


def main(
    rtl: Annotated[bool, typer.Option("--rtl", help="Run the dense query and the pruned token on RTL too.")] = False,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR")] = RESULTS,
) -> None:
    """Cycles of published workloads; exit code 1 if one takes more than its limit."""
    rows = measure(rtl)
    with output_folder(output) as partial:
        (partial / "attention_traces.json").write_text(json.dumps(rows, indent=2) + "\n")
    with standard_output() as console:
        console.print(table(rows), full_table(rows))
    if not all(within_limits(row) for row in rows):
        raise typer.Exit(1)


def within_limits(row: dict) -> bool:
    """Whether a row keeps its limits; at the full size as one stream of rows, as published."""
    full = row.get("full_size", {"stream": 0, "limit": 0})
    return row["cycles"] <= row["limit"] and full["stream"] <= full["limit"]


if __name__ == "__main__":
    typer.run(main)
