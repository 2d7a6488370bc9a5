"""One training run of the accuracy table: a recipe, a pattern, a set of images and a seed."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hwgen.arch import UserError
from models.cnn import DigitsCnn
from models.digits import digits
from models.digits_hard import hard_digits
from models.pattern import Pattern
from models.recipes.policy import SparsityPolicy
from models.recipes.recipe import Choice, recipe
from models.recipes.training import SparseTraining, rewind, sparsify

DATASETS = {"digits": digits, "hard": hard_digits}
"""Makers of the sets of images; they take a seed."""
EPOCHS = {"digits": 12, "hard": 8}
"""Default length of a run."""
MAX_RATE, MOMENTUM, WEIGHT_DECAY, BATCH = 0.1, 0.9, 5e-4, 64


@dataclass(frozen=True)
class Run:
    """Everything that the result of a run depends on."""

    dataset: str
    recipe: str
    pattern: str
    """N:M, or `dense`."""
    seed: int
    """Chooses the split, the initial weights, the order of the images and random masks."""
    epochs: int
    width: int = 16

    def __post_init__(self) -> None:
        if self.dataset not in DATASETS:
            raise UserError(f"unknown set of images {self.dataset!r}: there are {', '.join(DATASETS)}")
        if self.epochs < 1 or self.width < 1:
            raise UserError(f"a run needs at least one epoch and one channel, not {self.epochs} and {self.width}")
        if (Pattern.parse(self.pattern) is None) != (self.recipe == "dense"):
            raise UserError(f"recipe {self.recipe!r} does not go with pattern {self.pattern!r}")
        recipe(self.recipe)


@dataclass(frozen=True)
class Result:
    """What a run has led to."""

    accuracy: float
    """Share of the test images that are classified rightly, by the final weights."""
    train_loss: float
    """Mean cross entropy of the training images, by the final weights in evaluation mode."""
    seconds: float
    """CPU seconds."""


def run(config: Run) -> Result:
    """Train and evaluate once, on one thread: several would add in another order, and wait for one another."""
    start = time.process_time()
    data = DATASETS[config.dataset](config.seed)
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        module = DigitsCnn(config.width)
        images, labels = tensors(data.train_images, data.train_labels)
        fit = partial(train, images=images, labels=labels, epochs=config.epochs)
        training = prepare(module, config, fit)
        fit(module, training=training)
        module = training.finish().eval()
        accuracy, _ = evaluate(module, *tensors(data.test_images, data.test_labels))
        _, loss = evaluate(module, images, labels)
    return Result(accuracy, loss, time.process_time() - start)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let PyTorch use one thread in the block."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def prepare(module: nn.Module, config: Run, fit: Callable[[nn.Module], None]) -> SparseTraining:
    """The module with the recipe of a run applied to it; a lottery ticket is trained first."""
    chosen, policy = recipe(config.recipe), SparsityPolicy(Pattern.parse(config.pattern))
    return rewind(module, fit, chosen, policy) if chosen.choice is Choice.ONCE else sparsify(module, chosen, policy)


def train(
    module: nn.Module, images: Tensor, labels: Tensor, epochs: int, training: SparseTraining | None = None
) -> None:
    """Momentum SGD with a one-cycle learning rate on images `[count, 1, side, side]` and labels `[count]`."""
    optimizer = torch.optim.SGD(module.parameters(), lr=MAX_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    total = epochs * math.ceil(len(images) / BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, MAX_RATE, total_steps=total)
    module.train()
    done = 0
    for _ in range(epochs):
        for chosen in torch.randperm(len(images)).split(BATCH):
            if training is not None:
                training.step(done / total)
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(images[chosen]), labels[chosen]).backward()
            optimizer.step()
            schedule.step()
            done += 1


@torch.no_grad()
def evaluate(module: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Accuracy and mean cross entropy of a module in evaluation mode."""
    logits = torch.cat([module(part) for part in images.split(512)])
    loss = nn.functional.cross_entropy(logits, labels)
    return float((logits.argmax(1) == labels).float().mean()), float(loss)


def tensors(images: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Images `[count, side * side]` as `[count, 1, side, side]`, and labels."""
    side = math.isqrt(images.shape[1])
    return torch.from_numpy(images).reshape(-1, 1, side, side), torch.from_numpy(labels)
