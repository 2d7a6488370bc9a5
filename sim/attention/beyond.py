"""What the attention engine does beyond the published one, in cycles and DRAM bytes: `python -m sim.attention.beyond`.

By the cycle models of the engine, one layer each: LSBs by key, forgetting, a recent window, head sizes, grouped
queries, tiles. What forgetting and the window are for, the outputs of a decoder whose cache loses tokens, is measured
on trained weights (`cache.py`).
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from hwgen.arch.attention import AttentionSizes
from hwgen.arch.services import SERVICES, Job, pack_service
from models.attention_engine.engine import Importance
from models.memory import Memory
from sim.attention.ablation import measure
from sim.attention.cache import kept
from sim.attention.services_model import golden_service, run_service_model
from sim.attention.workloads import Attention
from sim.console import progress, standard_output
from sim.files import output_folder

SIZES = AttentionSizes()
FOLDER = Path("build/attention_beyond")
DECODER = Attention(heads=12, alive=12, head_size=64, queries=1, keys=921, values=184, key_bits=6, value_bits=6)
"""The first layer of a pruned token in the published traces."""
UNSURE = replace(DECODER, split=True, unsure=1.0)
DENSE = replace(DECODER, keys=1024, values=1024)
CASES: dict[str, dict[str, Attention]] = {
    "LSBs, every row unsure": {
        "of all keys": UNSURE,
        "of half of the keys": replace(UNSURE, picked=0.5),
        "of a tenth of the keys": replace(UNSURE, picked=0.1),
        "of a hundredth": replace(UNSURE, picked=0.01),
    },
    "forgetting": {"none": DECODER, "230/256": replace(DECODER, forget=230)},
    "head size, encoder of 128 tokens": {
        f"{min(16, 768 // size)} heads of {size}": Attention(
            heads=min(16, 768 // size), alive=min(16, 768 // size), head_size=size,
            queries=128, keys=128, values=64, key_bits=6, value_bits=6, hold=True,
        )
        for size in (32, 64, 96, 128)
    },
    "grouped queries, 12 query heads, 512 keys": {
        f"{12 // group} heads of keys": replace(DENSE, keys=512, values=512, group=group, hold=group > 1)
        for group in (1, 2, 4)
    },
    "length, rows of all values": {
        f"{keys:,} keys": replace(DENSE, keys=keys, values=keys) for keys in (1024, 2048, 4096, 16384)
    },
}  # fmt: skip
CANDIDATES, SURVIVORS = 921, 716
"""Of the second layer of a pruned token."""
WINDOWS = (0, 32, 128)
ROOM, FORGETS, RECENTS = 64, (256, 250, 230, 128), (1, 16, 32)
"""Of caches whose outputs are compared."""


def rows() -> list[dict[str, Any]]:
    """A row for each case."""
    listed = [(what, case, layer) for what, cases in CASES.items() for case, layer in cases.items()]
    layers = [{"what": what, "case": case, **measure([layer], SIZES)} for what, case, layer in listed]
    what = f"recent window, SELECT of {SURVIVORS} of {CANDIDATES} tokens"
    windows = [
        {"what": what, "case": f"{window} tokens" if window else "none", **selection(window)} for window in WINDOWS
    ]
    return layers + windows


def selection(window: int) -> dict[str, Any]:
    """SELECT by made-up importance, the newest `window` tokens protected by a bit each."""
    job, mask, lists = (number * SIZES.max_length * 2 for number in range(3))
    bits = ((1 << window) - 1) << CANDIDATES - window
    fields = {item.name: item.low for item in SERVICES[Job.SELECT]} | {"length": CANDIDATES, "keep": SURVIVORS}
    fields |= {"protected": int(window > 0), "protect_addr": mask, "index_addr": lists}
    memory = Memory({job: pack_service(Job.SELECT, fields), mask: bits.to_bytes(SIZES.max_length // 8, "little")})
    importance = Importance.empty(SIZES)
    importance.tokens[:] = np.random.default_rng(0).exponential(1 << 16, SIZES.max_length)
    run = run_service_model(SIZES, golden_service(SIZES, memory, Job.SELECT, job, importance))
    beats = run.read_beats + run.write_beats
    port = {"bytes": beats * SIZES.beat_bytes, "port_busy": beats / run.cycles}
    return {"cycles": run.cycles, "products_busy": 0.0, **port}


def caches() -> list[dict[str, Any]]:
    """What is left of the outputs of a decoder that keeps `ROOM` tokens, by forgetting and recent window."""
    cases = [(forget, recent) for forget in FORGETS for recent in RECENTS]
    return [{"forget": forget, "recent": recent, **vars(kept(ROOM, forget, recent))} for forget, recent in cases]


def main(output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR")] = FOLDER) -> None:
    """Cycles and DRAM bytes for what the published engine does not do; outputs of caches that lose tokens."""
    with progress() as say:
        say("layers through the cycle model")
        found = rows()
        say("caches that lose tokens")
        losing = caches()
    with output_folder(output) as folder:
        for name, listed in (("attention_beyond", found), ("attention_cache", losing)):
            (folder / f"{name}.json").write_text(json.dumps(listed, indent=1) + "\n")
    with standard_output() as console:
        console.print(_cycle_table(found), _cache_table(losing))


def _cycle_table(found: list[dict[str, Any]]) -> Table:
    table = Table("", "", "cycles", "kbytes", "products busy", "port busy")
    for row in found:
        shares = (f"{row['products_busy']:.1%}", f"{row['port_busy']:.1%}")
        table.add_row(row["what"], row["case"], f"{row['cycles']:,}", f"{row['bytes'] / 1000:,.0f}", *shares)
    return table


def _cache_table(found: list[dict[str, Any]]) -> Table:
    table = Table("forget", "recent", "error", "seen", "median age", title=f"Caches that keep {ROOM} tokens")
    for row in found:
        shares = (f"{row['error']:.1%}", f"{row['seen']:.1%}", f"{row['age']:.0f}")
        table.add_row(f"{row['forget']}/256", str(row["recent"]), *shares)
    return table


if __name__ == "__main__":
    typer.run(main)
