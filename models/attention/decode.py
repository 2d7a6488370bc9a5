"""DRAM bytes of a generated token: `python -m models.attention.decode`. A model of GPT-2's shape with random weights.

Caps are those of the published traces of GPT-2-small on WikiText-2. Attention of random weights is nearly
flat, so nearly every row needs its LSBs, where trained weights need few: bytes here are an upper limit.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from transformers import GPT2Config, GPT2LMHeadModel

from hwgen.arch import UserError
from models.attention.policy import HEADS_UNPRUNED, PruningPolicy, Schedule, unpruned_layers
from models.attention.quantize import Quantization
from models.attention.statistics import LayerStatistics, Statistics
from models.attention.wrapper import prune
from models.recipes.accuracy import machine, write

FOLDER = Path("build/attention")
KEY_CAPS = (921, 716, *[204] * 4, *[102] * 6)
"""Keys of each layer in the traces, of 1,024."""
VALUE_CAPS = (184, 143, *[40] * 4, *[20] * 6)
"""Values of each row in the traces: a fifth of the keys."""
TRACE_BITS = Quantization(msb=6, lsb=4, threshold=0.05, value_lsb="never")
HEAD_MEAN = 0.9
"""Mean share of heads: about the paper's 1.1x for GPT-2."""


@dataclass(frozen=True)
class Shape:
    """Size of the model and of a run."""

    layers: int = 12
    heads: int = 12
    hidden: int = 768
    prompt: int = 992
    tokens: int = 32

    def model(self, seed: int) -> GPT2LMHeadModel:
        """Random weights; a small vocabulary, which attention does not see."""
        torch.manual_seed(seed)
        return GPT2LMHeadModel(
            GPT2Config(
                vocab_size=256,
                n_positions=self.prompt + self.tokens,
                n_embd=self.hidden,
                n_layer=self.layers,
                n_head=self.heads,
                bos_token_id=0,
                eos_token_id=0,
            )
        ).eval()


def policies(shape: Shape) -> dict[str, PruningPolicy]:
    """From nothing to everything, one step a row. Raises `UserError` for a shape that the traces have no caps for."""
    if shape.layers != len(KEY_CAPS):
        raise UserError(f"the traces have caps for {len(KEY_CAPS)} layers, not {shape.layers}")
    tokens, values = Schedule(caps=KEY_CAPS), Schedule(caps=VALUE_CAPS)
    heads = Schedule.linear(shape.layers, mean=HEAD_MEAN, first=unpruned_layers(shape.layers, HEADS_UNPRUNED))
    bits = Quantization(msb=6, lsb=4, threshold=2)
    per_key = Quantization(msb=6, lsb=4, threshold=0.05, cutoff=0.05, value_lsb="never")
    return {
        "FP32, nothing pruned": PruningPolicy(),
        "+ tokens": PruningPolicy(tokens=tokens),
        "+ heads": PruningPolicy(tokens=tokens, heads=heads),
        "+ local values": PruningPolicy(tokens=tokens, heads=heads, values=values),
        "+ 10 bits": PruningPolicy(tokens=tokens, heads=heads, values=values, quantization=bits),
        "+ progressive 6+4": PruningPolicy(tokens=tokens, heads=heads, values=values, quantization=TRACE_BITS),
        "+ LSBs per key": PruningPolicy(tokens=tokens, heads=heads, values=values, quantization=per_key),
        "as the traces: no heads pruned": PruningPolicy(tokens=tokens, values=values, quantization=TRACE_BITS),
    }


def generate(model: GPT2LMHeadModel, shape: Shape, policy: PruningPolicy) -> tuple[LayerStatistics, Statistics]:
    """Counts of the prompt, and of the decoded tokens layer by layer. The likeliest token is taken."""
    ids = torch.randint(model.config.vocab_size, (1, shape.prompt), generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), prune(model, policy) as pruned:
        out = model(ids, use_cache=True, logits_to_keep=1)
        prompt = pruned.statistics.total
        pruned.statistics.reset()
        for _ in range(shape.tokens):
            last = out.logits[:, -1:].argmax(-1)
            out = model(last, past_key_values=out.past_key_values, use_cache=True)
    return prompt, pruned.statistics


def result(name: str, shape: Shape, prompt: LayerStatistics, decoded: Statistics) -> dict[str, Any]:
    """A row of the table and its layers; counts of decoding are of all tokens."""
    total = decoded.total
    return {
        "step": name,
        "generated": shape.tokens,
        "prompt_bytes": prompt.bytes,
        "prompt_bytes_dense": prompt.bytes_dense,
        **{key: value for key, value in total.as_dict().items() if key not in ("sequences", "passes")},
        "layer_keys": [layer.keys for layer in decoded.layers],
        "layer_bytes": [layer.bytes for layer in decoded.layers],
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table, a generated token."""
    lines = [
        "| step | kbytes a token | fewer | MACs a token | fewer | rows with LSBs | prompt, kbytes | fewer |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        generated = row["generated"]
        cells = [
            row["step"],
            f"{row['bytes'] / generated / 1000:,.0f}",
            f"{row['bytes_dense'] / row['bytes']:.1f}x",
            f"{row['macs'] / generated:,.0f}",
            f"{row['macs_dense'] / row['macs']:.1f}x",
            f"{row['rows_lsb'] / row['rows']:.1%}".replace("%", " %"),
            f"{row['prompt_bytes'] / 1000:,.0f}",
            f"{row['prompt_bytes_dense'] / row['prompt_bytes']:.1f}x",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(
    prompt: Annotated[int, typer.Option(min=1, help="tokens of the prompt")] = 992,
    tokens: Annotated[int, typer.Option(min=1, help="tokens that are generated")] = 32,
    seed: Annotated[int, typer.Option(help="of the weights")] = 0,
    output: Annotated[Path, typer.Option("-o", help="folder of decode.json and decode.md")] = FOLDER,
) -> None:
    """Print DRAM bytes and MACs of decoding, from nothing pruned to everything, as Markdown."""
    console = Console(stderr=True, soft_wrap=True)
    shape = Shape(prompt=prompt, tokens=tokens)
    try:
        model, rows = shape.model(seed), []
        for name, policy in policies(shape).items():
            rows.append(result(name, shape, *generate(model, shape, policy)))
            console.print(f"{name}: done")
        output.mkdir(parents=True, exist_ok=True)
        lines = ",\n  ".join(map(json.dumps, rows))
        text = f'{{\n "machine": {json.dumps(machine())},\n "seed": {seed},\n "rows": [\n  {lines}\n ]\n}}\n'
        write(output / "decode.json", text)
        write(output / "decode.md", markdown(rows))
    except UserError as error:
        console.print(f"error: {error}", style="red", markup=False)
        raise typer.Exit(2) from None
    print(markdown(rows), end="")


if __name__ == "__main__":
    typer.run(main)
