"""What the attention engine does beyond the published one, in cycles and DRAM bytes: `python -m sim.attention_beyond`.

By the cycle model of the attention core, one layer each: LSBs by key, forgetting, head sizes, grouped queries, tiles.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from hwgen.arch.attention import AttentionSizes
from sim.attention_ablation import measure
from sim.attention_workloads import Attention
from sim.console import progress, standard_output
from sim.files import output_folder

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


def rows() -> list[dict[str, Any]]:
    """A row for each case."""
    listed = [(what, case, layer) for what, cases in CASES.items() for case, layer in cases.items()]
    return [{"what": what, "case": case, **measure([layer], AttentionSizes())} for what, case, layer in listed]


def main(output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR")] = FOLDER) -> None:
    """Cycles and DRAM bytes of a layer, for what the published engine does not do."""
    with progress() as say:
        say("layers through the cycle model")
        found = rows()
    with output_folder(output) as folder:
        (folder / "attention_beyond.json").write_text(json.dumps(found, indent=1) + "\n")
    table = Table("", "", "cycles", "kbytes", "products busy", "port busy")
    for row in found:
        shares = (f"{row['products_busy']:.1%}", f"{row['port_busy']:.1%}")
        table.add_row(row["what"], row["case"], f"{row['cycles']:,}", f"{row['bytes'] / 1000:,.0f}", *shares)
    with standard_output() as console:
        console.print(table)


if __name__ == "__main__":
    typer.run(main)
