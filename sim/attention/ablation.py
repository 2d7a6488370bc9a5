"""What each step of attention pruning is worth, in cycles and DRAM bytes: `python -m sim.attention.ablation`.

From nothing pruned to everything, for layers of the shape of BERT-base and for 32 tokens that GPT-2-small generates
behind 992, by the cycle model of the attention core; then the width of the top-k engine alone. Attention only.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from hwgen.arch.attention import AttentionSizes
from models.attention.decode import HEAD_MEAN, KEY_CAPS, VALUE_CAPS
from models.attention.policy import HEADS_UNPRUNED, PruningPolicy, Schedule, unpruned_layers
from sim.attention.model import JobCycles, run_jobs
from sim.attention.workloads import Attention
from sim.console import progress, standard_output
from sim.files import output_folder

FOLDER = Path("build/attention_ablation")
LAYERS, HEADS, HEAD_SIZE = 12, 12, 64
"""Of BERT-base and of GPT-2-small."""
PROMPT, TOKENS = 992, 32
UNSURE = 0.059
"""Share of the rows that need LSBs (SpAtten, section V)."""
BERT = PruningPolicy.average(LAYERS, tokens=0.65, heads=0.9, values=0.5)
"""Means that come to about the paper's 2.1 times fewer multiplications."""
GPT2 = PruningPolicy(
    tokens=Schedule(caps=KEY_CAPS),
    heads=Schedule.linear(LAYERS, mean=HEAD_MEAN, first=unpruned_layers(LAYERS, HEADS_UNPRUNED)),
    values=Schedule(caps=VALUE_CAPS),
)
"""Keys and values of the published traces."""


@dataclass(frozen=True)
class Step:
    """What is switched on, one after the other."""

    tokens: bool = False
    heads: bool = False
    values: bool = False
    progressive: bool = False
    select_lanes: int = 1


STEPS = {
    "nothing pruned, 12 bits": Step(),
    "+ cascade of tokens": Step(tokens=True),
    "+ cascade of heads": Step(tokens=True, heads=True),
    "+ local values": Step(tokens=True, heads=True, values=True),
    "+ progressive 6 + 4 bits": Step(tokens=True, heads=True, values=True, progressive=True),
    "+ parallel top-k, 16 wide": Step(tokens=True, heads=True, values=True, progressive=True, select_lanes=16),
}
WIDTHS = (1, 2, 4, 8, 16, 32)


def layer(step: Step, policy: PruningPolicy, number: int, keys: int, queries: int | None = None) -> Attention:
    """One layer of `keys` tokens before pruning. queries : of a decoder; None: as many as keys are left."""

    def left(wanted: bool, schedule: Schedule, count: int) -> int:
        return schedule.count(number, count) if wanted else count

    kept = left(step.tokens, policy.tokens, keys)
    made = Attention(
        heads=HEADS,
        alive=left(step.heads, policy.heads, HEADS),
        head_size=HEAD_SIZE,
        queries=queries or kept,
        keys=kept,
        values=left(step.values, policy.values, kept),
        hold=queries is None,
    )
    return replace(made, key_bits=6, value_bits=6, split=True, unsure=UNSURE) if step.progressive else made


def bert(length: int) -> Callable[[Step], list[Attention]]:
    """All layers of a sentence."""
    return lambda step: [layer(step, BERT, number, length) for number in range(LAYERS)]


def gpt2(step: Step) -> list[Attention]:
    """All layers of every token that is generated."""
    return [layer(step, GPT2, number, PROMPT + 1 + token, 1) for token in range(TOKENS) for number in range(LAYERS)]


WORKLOADS = {"BERT-base, 128 tokens": bert(128), "BERT-base, 512 tokens": bert(512), "GPT-2-small, 992 + 32": gpt2}


def measure(layers: list[Attention], sizes: AttentionSizes) -> dict[str, Any]:
    """Cycles, DRAM bytes and share of the cycles in which products work, of layers one behind the other."""
    runs: list[JobCycles] = run_jobs(sizes, [item.job(seed) for seed, item in enumerate(layers)])
    cycles = sum(run.cycles for run in runs)
    beats = sum(run.read_beats + run.write_beats for run in runs)
    busy = sum(run.products_busy for run in runs)
    return {
        "cycles": cycles,
        "bytes": beats * sizes.beat_bytes,
        "products_busy": busy / cycles,
        "port_busy": beats / cycles,
    }


def ablation(name: str) -> list[dict[str, Any]]:
    """Rows of a workload's table, the first one FP32 bytes without an engine."""
    workload = WORKLOADS[name]
    rows = [{"step": "FP32, nothing pruned", "bytes": sum(item.float_bytes for item in workload(Step()))}]
    for step, what in STEPS.items():
        sizes = AttentionSizes(select_lanes=what.select_lanes)
        rows.append({"step": step, **asdict(what), **measure(workload(what), sizes)})
    return rows


def widths(name: str) -> list[dict[str, Any]]:
    """Everything on, by the width of the top-k engine; 32 lanes of softmax, so that it alone changes."""
    layers = WORKLOADS[name](STEPS["+ parallel top-k, 16 wide"])
    return [
        {"width": width, **measure(layers, AttentionSizes(softmax_lanes=32, select_lanes=width))} for width in WIDTHS
    ]


def _ablation_table(name: str, rows: list[dict[str, Any]]) -> Table:
    table = Table("step", "cycles", "faster", "kbytes", "fewer than FP32", "products busy", "port busy", title=name)
    first, floats = rows[1]["cycles"], rows[0]["bytes"]
    for row in rows:
        cells = [row["step"], "", "", f"{row['bytes'] / 1000:,.0f}", f"{floats / row['bytes']:.1f}x", "", ""]
        if "cycles" in row:
            cells[1:3] = [f"{row['cycles']:,}", f"{first / row['cycles']:.2f}x"]
            cells[5:] = [f"{row['products_busy']:.1%}", f"{row['port_busy']:.1%}"]
        table.add_row(*cells)
    return table


def _width_table(name: str, rows: list[dict[str, Any]]) -> Table:
    table = Table("top-k width", "cycles", "against 1", "products busy", title=name)
    for row in rows:
        faster = f"{rows[0]['cycles'] / row['cycles']:.2f}x"
        table.add_row(str(row["width"]), f"{row['cycles']:,}", faster, f"{row['products_busy']:.1%}")
    return table


def main(output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR")] = FOLDER) -> None:
    """Cycles and DRAM bytes of attention from nothing pruned to everything, and by the width of the top-k engine."""
    found: dict[str, Any] = {"ablation": {}, "widths": {}}
    with progress() as say:
        for name in WORKLOADS:
            say(f"{name}: ablation")
            found["ablation"][name] = ablation(name)
            say(f"{name}: width of the top-k engine")
            found["widths"][name] = widths(name)
    with output_folder(output) as folder:
        (folder / "attention_ablation.json").write_text(json.dumps(found, indent=1) + "\n")
    with standard_output() as console:
        for name in WORKLOADS:
            console.print(_ablation_table(name, found["ablation"][name]))
        for name in WORKLOADS:
            console.print(_width_table(name, found["widths"][name]))


if __name__ == "__main__":
    typer.run(main)
