"""Why `reads_in_flight` is what it is: the port's share in memory-bound decoding: `python -m sim.attention.reads`.

By the cycle model: published tokens as `vcu1525` runs them, with other queues of beats and memories farther away.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from sim.attention.model import run_jobs
from sim.attention.trace_jobs import made_up_job
from sim.attention.traces import RESULTS, SEED, SIZES, Workload, workloads
from sim.console import progress, standard_output
from sim.files import output_folder

READS = (32, 64, 128, 256)
LATENCIES = (40, 60, 80, 120, 200)
NAMES = ("dense query", "dense token", "pruned token")


def port_share(workload: Workload, reads: int, latency: int) -> dict[str, Any]:
    """Cycles of a workload, and the share of them in which a beat passes the port."""
    sizes, rng = replace(SIZES, reads_in_flight=reads), np.random.default_rng(SEED)
    jobs = run_jobs(sizes, [made_up_job(layer, sizes, rng) for layer in workload.layers], latency=latency)
    cycles = jobs[-1].begins + jobs[-1].cycles
    return {"cycles": cycles, "port_busy": sum(job.read_beats + job.write_beats for job in jobs) / cycles}


def main(output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR")] = RESULTS) -> None:
    """Cycles and share of the port by workload, memory latency and `reads_in_flight`."""
    found = []
    with progress() as say:
        for workload in (workload for workload in workloads() if workload.name in NAMES):
            say(workload.name)
            for latency in LATENCIES:
                own = {reads: port_share(workload, reads, latency) for reads in READS}
                found.append({"workload": workload.name, "latency": latency, "reads_in_flight": own})
    with output_folder(output) as folder:
        (folder / "attention_reads.json").write_text(json.dumps(found, indent=1) + "\n")
    table = Table("workload", "latency", *map(str, READS), title="Share of the port by reads_in_flight")
    for row in found:
        shares = (f"{one['cycles']:,} ({one['port_busy']:.1%})" for one in row["reads_in_flight"].values())
        table.add_row(row["workload"], str(row["latency"]), *shares)
    with standard_output() as console:
        console.print(table)


if __name__ == "__main__":
    typer.run(main)
