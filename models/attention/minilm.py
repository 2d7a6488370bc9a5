"""MiniLM with trained weights, pruned and quantised: `python -m models.attention.minilm`. Accuracy, bytes and MACs."""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from hwgen.arch import UserError
from models.attention.embedding import MiniLM, agreement, load, texts
from models.attention.policy import PruningPolicy, Schedule
from models.attention.quantize import SPLITS, Quantization
from models.attention.statistics import LayerStatistics
from models.recipes.accuracy import machine, write

SETS = "sentences paragraphs"
RATIOS = "1.0 0.9 0.8 0.7 0.6 0.5 0.4 0.3"
FOLDER = Path("build/attention")
LAYERS, HEADS = 6, 12
COLUMNS = (
    *("tokens", "heads", "values", "bits", "LSBs if", "cosine", "least", "rank"),
    *("kbytes", "fewer", "attention MACs", "linear MACs", "rows with LSBs"),
)


@dataclass(frozen=True)
class Setting:
    """A row of the table. Ratios of tokens and heads are those of the last layer; they fall linearly from layer 1."""

    tokens: float = 1.0
    heads: float = 1.0
    values: float = 1.0
    bits: str = "float32"
    threshold: float = 0.1
    cutoff: float | None = None

    def policy(self) -> PruningPolicy:
        """The policy for MiniLM, whose output is pooled, so that no token is protected."""
        quantised = self.bits != "float32"
        return PruningPolicy(
            tokens=Schedule.linear(LAYERS, last=self.tokens),
            heads=Schedule.linear(LAYERS, last=self.heads),
            values=Schedule(shares=(self.values,) * LAYERS),
            quantization=Quantization.parse(self.bits, threshold=self.threshold, cutoff=self.cutoff)
            if quantised
            else None,
            protect_first=0,
        )


SANE = Setting(tokens=0.8, values=0.8, bits="6+4")
"""What the model bears without fine-tuning."""


def settings(ratios: Iterable[float]) -> list[Setting]:
    """All rows: tokens, values, heads, bit splits with LSBs per row and per key, and combinations."""
    splits = [f"{msb}+{lsb}" for msb, lsb in SPLITS]
    ratios = list(ratios)
    return [
        *(Setting(tokens=ratio) for ratio in ratios),
        *(Setting(values=ratio) for ratio in ratios if ratio < 1),
        *(Setting(heads=heads / HEADS) for heads in (11, 10, 8)),
        *(Setting(bits=bits) for bits in splits),
        *(Setting(bits=bits, threshold=0) for bits in splits[:2]),
        *(Setting(bits=bits, cutoff=0.05) for bits in splits[:3]),
        *(Setting(tokens=ratio, values=0.8, bits="6+4") for ratio in ratios),
        replace(SANE, cutoff=0.05),
        replace(SANE, bits="4+4"),
        Setting(tokens=0.6, heads=10 / HEADS, values=0.8, bits="6+4"),
    ]


def numbers(text: str) -> list[float]:
    """Keep ratios. Raises `UserError` for anything else."""
    try:
        return [float(word) for word in text.split()]
    except ValueError:
        raise UserError(f"keep ratios are numbers in (0, 1] with spaces between, not {text!r}") from None


def measure(names: list[str], rows: list[Setting], minilm: MiniLM, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Each setting on each set of texts, against the plain model in float32."""
    found = []
    for name in names:
        tokens = minilm.tokens(texts(name))
        plain, _ = minilm.embed(tokens)
        for setting in rows:
            embedded, counted = minilm.embed(tokens, setting.policy())
            close = agreement(embedded, plain)
            found.append({"texts": name} | asdict(setting) | asdict(close) | counts(counted))
        tell(f"{name}: {len(rows)} settings, {len(tokens)} texts")
    return found


def counts(counted: LayerStatistics) -> dict[str, Any]:
    """What goes into a row of the result file; bytes and MACs are of all texts and layers."""
    return {
        "bytes": counted.bytes,
        "bytes_dense": counted.bytes_dense,
        "macs": counted.macs,
        "macs_dense": counted.macs_dense,
        "linear_macs": counted.linear_macs,
        "linear_macs_dense": counted.linear_macs_dense,
        "rows": counted.rows,
        "rows_lsb": counted.rows_lsb,
        "key_lsb_bytes": counted.key_lsb_bytes,
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    """A table for each set of texts."""
    parts = []
    for name in dict.fromkeys(row["texts"] for row in rows):
        lines = [
            f"Set `{name}`:",
            "",
            f"| {' | '.join(COLUMNS)} |",
            "|" + " --- |" * len(COLUMNS),
        ]
        parts.append("\n".join(lines + [table_row(row) for row in rows if row["texts"] == name]) + "\n")
    return "\n".join(parts)


def table_row(row: dict[str, Any]) -> str:
    """One line of the table."""
    plain = row["bits"] == "float32"
    rule = "" if plain else f"max < {row['threshold']}" if row["threshold"] else "never"
    cells = [
        f"{row['tokens']:.1f}",
        f"{round(row['heads'] * HEADS)}",
        f"{row['values']:.1f}",
        row["bits"],
        rule if row["cutoff"] is None else f"{rule}, key >= {row['cutoff']}",
        f"{row['cosine']:.4f}",
        f"{row['cosine_min']:.3f}",
        f"{row['rank']:.3f}",
        f"{row['bytes'] / 1000:,.0f}",
        f"{row['bytes_dense'] / row['bytes']:.2f}x",
        f"{row['macs'] / row['macs_dense']:.2f}",
        f"{row['linear_macs'] / row['linear_macs_dense']:.2f}",
        "" if plain else f"{row['rows_lsb'] / row['rows']:.1%}".replace("%", " %"),
    ]
    return "| " + " | ".join(cells) + " |"


def json_text(rows: list[dict[str, Any]]) -> str:
    """JSON with a line for each row of the table."""
    lines = ",\n  ".join(json.dumps(row) for row in rows)
    return f'{{\n "machine": {json.dumps(machine())},\n "rows": [\n  {lines}\n ]\n}}\n'


def main(
    sets: Annotated[str, typer.Option(help="sets of texts")] = SETS,
    ratios: Annotated[str, typer.Option(help="keep ratios")] = RATIOS,
    output: Annotated[Path, typer.Option("-o", help="folder of minilm.json and minilm.md")] = FOLDER,
) -> None:
    """Print accuracy, DRAM bytes and MACs of MiniLM for keep ratios and bit splits, as Markdown."""
    console = Console(stderr=True, soft_wrap=True)
    try:
        rows = measure(sets.split(), settings(numbers(ratios)), load(), console.print)
        output.mkdir(parents=True, exist_ok=True)
        write(output / "minilm.json", json_text(rows))
        write(output / "minilm.md", markdown(rows))
    except UserError as error:
        console.print(f"error: {error}", style="red", markup=False)
        raise typer.Exit(2) from None
    print(markdown(rows), end="")


if __name__ == "__main__":
    typer.run(main)
