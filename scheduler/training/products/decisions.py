"""Which of several ways to compute a product is taken, by cycles, and which one came second."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hwgen.arch import UserError
from hwgen.arch.isa import Dataflow
from scheduler.array_cost import MARGIN

FLOWS = {"os": Dataflow.OUTPUT_STATIONARY, "ws": Dataflow.WEIGHT_STATIONARY}
NAMES = {Dataflow.OUTPUT_STATIONARY: "output stationary", Dataflow.WEIGHT_STATIONARY: "weight stationary"}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One way to cut a product into TENSOR instructions, and what it costs."""

    dataflow: Dataflow
    rows: int
    """Result rows of a tile, in the accumulators."""
    cols: int
    """Words of each of them: column blocks."""
    depth: int
    """Values along the reduction that an instruction adds up."""
    interleave: tuple[int, int]
    """Sums that rotate through an element: row blocks, column blocks."""
    order: str
    """Loops over tiles, the outermost first."""
    buffers: str
    """What stays in the scratchpads."""
    load: int
    """Cycles of the load engine."""
    tensor: int
    """Cycles of the tensor engine."""
    panel: int = 1
    """Row tiles for which a column tile stays."""
    rows_stay: bool = True
    """Whether the activations of these row tiles stay too; else they are loaded for each column tile."""
    weights_pass: bool = False
    """Whether weights pass by, `depth` values of the reduction at a time, each row tile again."""

    @property
    def cycles(self) -> int:
        """Of the engine that has more to do: engines overlap."""
        return max(self.load, self.tensor)

    def __str__(self) -> str:
        blocks, words = self.interleave
        return (
            f"{NAMES[self.dataflow]}, tiles of {self.rows} x {self.cols} words over {self.depth}, interleave {blocks} "
            f"x {words}, loops {self.order}, {self.buffers}, about {self.cycles:,} cycles"
        )


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What was chosen for one product kernel."""

    kernel: str
    """The tensor that it makes; input gradients of strided convolutions make it in parts."""
    stage: str
    """FF, BP, WU, or attention for products of activations."""
    first: int
    """Number of its first instruction, in the order in which kernels recorded them."""
    chosen: Choice
    runner_up: Choice | None
    """The best of the other dataflow, or the second best of the same if the other one cannot be."""

    @property
    def loss(self) -> str:
        """Why the runner-up was not taken."""
        if self.runner_up is None:
            return "nothing else fits"
        more = self.runner_up.cycles - self.chosen.cycles
        if more > 0:
            return f"{more:,} cycles more"
        if self.runner_up.dataflow != self.chosen.dataflow:
            return f"less than {MARGIN:.0%} faster, which a change of dataflow costs" if more < 0 else "as fast"
        return "as fast, with more loads or smaller tiles"

    def __str__(self) -> str:
        return f"{self.stage} {self.kernel}: {self.chosen}; runner-up ({self.loss}): {self.runner_up or 'none'}"


def choose(
    choices: Sequence[Choice], dataflow: str = "auto", *, interleave: bool = True
) -> tuple[Choice, Choice | None]:
    """The best choice, and the runner-up.

    `dataflow` is auto, os or ws; where no choice has it, all are considered. Without `interleave`, one sum an element.
    Raises `UserError` if there are none.
    """
    choices = [item for item in choices if interleave or item.interleave == (1, 1)] or list(choices)
    if not choices:
        raise UserError("a product has no tile that fits the scratchpads")
    wanted = [item for item in choices if dataflow == "auto" or item.dataflow == FLOWS[dataflow]] or choices
    chosen = min(wanted, key=_rank)
    others = [item for item in choices if item.dataflow != chosen.dataflow]
    others = others or [item for item in choices if item is not chosen]
    return chosen, min(others, key=_rank, default=None)


def _rank(item: Choice) -> tuple[float, int, int]:
    """Fewest cycles, then fewest loads, then largest tile."""
    handicap = MARGIN if item.dataflow == Dataflow.WEIGHT_STATIONARY else 0
    return item.cycles * (1 + handicap), item.load, -item.rows * item.cols


def table(decisions: Sequence[Decision]) -> str:
    """Markdown: what was chosen for each product, and what came second."""
    heads = ("stage", "result", "dataflow", "tile", "depth", "interleave", "loops", "stays", "cycles")
    heads += ("runner-up", "its cycles", "why not")
    lines = [f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads)]
    for item in decisions:
        best, other = item.chosen, item.runner_up
        cells = [item.stage, item.kernel, NAMES[best.dataflow], f"{best.rows} x {best.cols}", f"{best.depth:,}"]
        cells += [f"{best.interleave[0]} x {best.interleave[1]}", best.order, best.buffers, f"{best.cycles:,}"]
        rival = f"{NAMES[other.dataflow]}, {other.rows} x {other.cols}" if other else "none"
        cells += [rival, f"{other.cycles:,}" if other else "", item.loss]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plain(decisions: Sequence[Decision]) -> list[dict[str, Any]]:
    """The same as plain data."""

    def of(choice: Choice | None) -> dict[str, Any] | None:
        if choice is None:
            return None
        return asdict(choice) | {"dataflow": NAMES[choice.dataflow], "cycles": choice.cycles}

    return [
        {"kernel": item.kernel, "stage": item.stage, "chosen": of(item.chosen), "runner-up": of(item.runner_up)}
        | {"why not": item.loss}
        for item in decisions
    ]
