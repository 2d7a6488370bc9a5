"""The handwritten digits that scikit-learn brings along, and an MLP trained on them, dense or with N:M weights."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from models.sparsity import nm_mask
from models.zoo import Mlp

TEST_SIZE = 360
"""Images of the test split; the other 1,437 are for training."""
DENSE_LAYERS: tuple[str, ...] = ()
"""Layers of the MLP that stay dense. The usual exceptions, first layer and classifier, are pruned here too: on the
digits that costs no accuracy (2:8, mean of three seeds: 97.7 %; classifier dense 97.1 %; nothing pruned 97.4 %)."""
DECAY = 2e-4
"""Weight of the SR-STE decay term (Zhou et al., "Learning N:M fine-grained structured sparse neural networks")."""


@dataclass(frozen=True)
class Digits:
    """Train and test split: images `[count, pixels]` (of `digits`: 64, in 0..1) and labels `[count]`."""

    train_images: NDArray[np.float32]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.float32]
    test_labels: NDArray[np.int64]


def digits(seed: int = 0) -> Digits:
    """The 1,797 8x8 images, split into 1,437 and 360 with equal shares of every digit; the seed chooses the split."""
    bunch = load_digits()
    images = (bunch.data / 16).astype(np.float32)
    train, test, train_labels, test_labels = train_test_split(
        images, bunch.target.astype(np.int64), test_size=TEST_SIZE, stratify=bunch.target, random_state=seed
    )
    return Digits(train, train_labels, test, test_labels)


def train_mlp(pattern: tuple[int, int] | None = None, epochs: int = 30, seed: int = 0) -> Mlp:
    """Train the 64-128-128-10 MLP; with `pattern` = (N, M) all layers but `DENSE_LAYERS` get N:M weights.

    Pruned training is SR-STE: every step multiplies with the N largest of each M weights along the reduction, the
    gradient goes to all weights, and the pruned ones decay. AdamW, one-cycle learning rate; takes a few seconds on
    one core. Returns the module in evaluation mode, pruned weights set to zero.
    """
    data = digits(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = Mlp()
        _fit(module, data, pattern, epochs)
    for layer in _pruned_layers(module, pattern):
        layer.weight.data *= _mask(layer.weight, pattern)
    return module.eval()


def accuracy(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Share of rows of `[count, 10]` whose largest value is at the label's place."""
    return float((np.argmax(logits, axis=1) == labels).mean())


def _fit(module: Mlp, data: Digits, pattern: tuple[int, int] | None, epochs: int, batch: int = 64) -> None:
    images, labels = torch.from_numpy(data.train_images), torch.from_numpy(data.train_labels)
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3, weight_decay=1e-3)
    steps = -(-len(images) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=epochs * steps)
    for _ in range(epochs):
        for chosen in torch.randperm(len(images)).split(batch):
            dense = _prune(module, pattern)
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(images[chosen]), labels[chosen]).backward()
            _restore(dense)
            optimizer.step()
            schedule.step()


def _pruned_layers(module: Mlp, pattern: tuple[int, int] | None) -> list[nn.Linear]:
    if pattern is None:
        return []
    return [layer for name, layer in module.named_children() if name not in DENSE_LAYERS]


def _mask(weight: torch.Tensor, pattern: tuple[int, int]) -> torch.Tensor:
    return torch.from_numpy(nm_mask(weight.detach().numpy(), *pattern, axis=1))


def _prune(module: Mlp, pattern: tuple[int, int] | None) -> list[tuple[nn.Linear, torch.Tensor, torch.Tensor]]:
    """Put pruned weights into the layers; returns layers, dense weights and masks."""
    held = []
    for layer in _pruned_layers(module, pattern):
        dense, mask = layer.weight.data, _mask(layer.weight, pattern)
        layer.weight.data = dense * mask
        held.append((layer, dense, mask))
    return held


def _restore(held: list[tuple[nn.Linear, torch.Tensor, torch.Tensor]]) -> None:
    """Put the dense weights back and add the decay of the pruned ones to the gradient, which went straight through."""
    for layer, dense, mask in held:
        layer.weight.data = dense
        layer.weight.grad += DECAY * ~mask * dense
