"""The example of the training page: the graph of one step of the small digits network.

`python -m scheduler.training.docs` fills the marked block of README.md beside this file; with `--check` it writes
nothing and fails if the block is stale.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from models.zoo_train import build_training
from scheduler import docs
from scheduler.training.capture import capture_training

COMMAND = "python -m scheduler.training.docs"


def example() -> str:
    """The graph as Markdown."""
    module, inputs, labels = build_training("digits_cnn", batch=16)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    graph = capture_training(module, "cross_entropy", inputs, labels, optimizer)
    return f"```text\n{graph.listing()}\n```"


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill the page, or check it; returns the exit code."""
    return docs.main(arguments, COMMAND, Path(__file__).parent, example)


if __name__ == "__main__":
    sys.exit(main())
