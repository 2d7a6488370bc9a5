"""The job `train`: a network learns handwritten digits on the accelerator, the same one in PyTorch beside it."""

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hwgen.arch import Arch, UserError
from models.cnn import DigitsCnn
from models.digits import Digits, digits
from models.pattern import Pattern
from models.recipes.experiment import evaluate, one_thread, tensors
from models.recipes.policy import SparsityPolicy
from models.recipes.recipe import Operand, recipe
from models.recipes.training import SparseTraining, sparsify
from models.zoo import Mlp
from scheduler.load import load_function
from scheduler.training.capture import capture_training
from scheduler.training.compile import compile_step
from scheduler.training.lower import Method, TrainingOptions
from scheduler.training.program import TrainingProgram
from sim.memory import check_seed
from sim.training.train import Batch

MODELS = {"digits_cnn": DigitsCnn, "digits_mlp": Mlp}
CLASSES = 10
MAX_RATE, MOMENTUM, WEIGHT_DECAY = 0.1, 0.9, 5e-4


@dataclass(frozen=True, kw_only=True)
class DigitsJob:
    """What to train, and how. Equal settings give equal batches, on the accelerator and in PyTorch."""

    model: str
    """A name of `MODELS`, or path/to/file.py:function that returns a module and examples as `simulate` takes them,
    images [batch, 1, 8, 8] or rows of pixels [batch, 64]."""
    arch: Arch
    pattern: Pattern | None = None
    method: Method = "bdwp"
    batch: int = 16
    epochs: int = 10
    seed: int = 0
    options: TrainingOptions = field(default_factory=TrainingOptions)
    """Further choices of the lowering; pattern and method come from above."""

    def __post_init__(self) -> None:
        if self.model not in MODELS and ".py:" not in self.model:
            raise UserError(
                f"unknown model {self.model!r}: models that learn digits are {', '.join(MODELS)}, or give "
                f"path/to/file.py:function"
            )
        if self.batch < 1 or self.epochs < 1:
            raise UserError(f"batch and epochs must be at least 1, not {self.batch} and {self.epochs}")
        check_seed(self.seed)
        if self.batch > len(self.data.train_images):
            raise UserError(f"a batch of {self.batch:,} is more than the {len(self.data.train_images):,} images")
        replace(self.options, method=self.method)

    @cached_property
    def data(self) -> Digits:
        """Images and labels, split by the seed."""
        return digits(self.seed)

    @property
    def steps(self) -> int:
        """Steps of all epochs; what is left of an epoch after whole batches is dropped."""
        return len(self.data.train_images) // self.batch * self.epochs

    @cached_property
    def _made(self) -> tuple[nn.Module, bool]:
        """The network, and whether it takes rows of pixels instead of images."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            if self.model in MODELS:
                return MODELS[self.model](), self.model == "digits_mlp"
            module, examples = load_function(self.model)
        shapes = [tuple(item.shape[1:]) for item in examples]
        if shapes not in ([(64,)], [(1, 8, 8)]):
            raise UserError(f"{self.model} must take digits, [batch, 1, 8, 8] or [batch, 64], not {shapes}")
        return module, shapes == [(64,)]

    def module(self) -> nn.Module:
        """The network with the weights of the seed."""
        return copy.deepcopy(self._made[0])

    def optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        """Momentum SGD."""
        if not any(parameter.requires_grad for parameter in module.parameters()):
            raise UserError(f"{self.model} has no parameter to train")
        return torch.optim.SGD(module.parameters(), lr=self.rate(0), momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)

    def rate(self, step: int) -> float:
        """Learning rate: up linearly over the first tenth, then down along a cosine."""
        warm = max(1, self.steps // 10)
        if step < warm:
            return MAX_RATE * (step + 1) / warm
        return MAX_RATE / 2 * (1 + math.cos(math.pi * (step - warm) / max(1, self.steps - warm)))

    def order(self) -> Iterator[NDArray[np.int64]]:
        """Image numbers of each batch."""
        rng, count = np.random.default_rng(self.seed), len(self.data.train_images)
        for _ in range(self.epochs):
            shuffled = rng.permutation(count)
            for start in range(0, count - self.batch + 1, self.batch):
                yield shuffled[start : start + self.batch]

    def tensors(self, chosen: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        """Images and labels of a batch as the module takes them."""
        images, labels = self.data.train_images[chosen], self.data.train_labels[chosen]
        return self._shaped(images), torch.from_numpy(labels)

    def _shaped(self, images: NDArray[np.float32]) -> torch.Tensor:
        if self._made[1]:
            return torch.from_numpy(images)
        return tensors(images, np.zeros(len(images), np.int64))[0]

    def program(self) -> TrainingProgram:
        """The step as a program for the architecture."""
        module, (images, labels) = self.module(), self.tensors(next(self.order()))
        graph = capture_training(module, "cross_entropy", (images,), labels, self.optimizer(module))
        scores = graph.tensors[graph.outputs["output"]].shape[-1]
        if scores < CLASSES:
            raise UserError(f"{self.model} must give a score for each of {CLASSES} digits, not {scores}")
        chosen = {"pattern": self.pattern, "method": self.method if self.pattern else "dense"}
        return compile_step(graph, self.arch, replace(self.options, **chosen))

    def batches(self, program: TrainingProgram) -> Iterator[tuple[Batch, Mapping[str, float]]]:
        """Tensors of the graph and scalars for each step."""
        layouts = program.graph.layouts
        (image,) = program.graph.of_kind("input")
        (label,) = program.graph.of_kind("label")
        for step, chosen in enumerate(self.order()):
            images, labels = self.tensors(chosen)
            batch = {
                image: layouts[image].from_torch(images.numpy()).astype(np.float32),
                label: layouts[label].from_torch(labels.numpy()).astype(np.float32),
            }
            yield batch, {"lr": self.rate(step), "step": step + 1}

    def trained(self, program: TrainingProgram, memory: NDArray[np.uint8]) -> nn.Module:
        """The module with what the accelerator has learned, in evaluation mode, pruned as its forward pass was."""
        module, layouts = self.module(), program.graph.layouts
        state = module.state_dict()
        for name, values in program.read_kept(memory).items():
            if name in state:
                state[name] = torch.from_numpy(np.ascontiguousarray(layouts[name].to_torch(values)))
        module.load_state_dict(state)
        training = self._sparse(module, program)
        return (training.finish() if training else module).eval()

    def reference(self, program: TrainingProgram, steps: int) -> tuple[nn.Module, list[float]]:
        """The first steps of the same training in PyTorch float32: the module in evaluation mode, and the losses."""
        module = self.module()
        training, optimizer, losses = self._sparse(module, program), self.optimizer(module), []
        with one_thread():
            for step, chosen in enumerate(islice(self.order(), steps)):
                for group in optimizer.param_groups:
                    group["lr"] = self.rate(step)
                images, labels = self.tensors(chosen)
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(module(images), labels)
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
        return (training.finish() if training else module).eval(), losses

    def accuracy(self, module: nn.Module) -> float:
        """Share of the test images that a module names rightly."""
        return evaluate(module, self._shaped(self.data.test_images), torch.from_numpy(self.data.test_labels))[0]

    def _sparse(self, module: nn.Module, program: TrainingProgram) -> SparseTraining | None:
        """The recipe of the method on the layers that the program prunes."""
        if self.pattern is None or self.method == "dense":
            return None
        dense = tuple(name.removesuffix(".weight") for name in program.places.notes)
        policy = SparsityPolicy(self.pattern, dense=dense, first_conv=True, classifier=True)
        backward = Operand.OUTPUT if self.method == "bdwp" else Operand.DENSE
        return sparsify(module, recipe(self.method, decay=self.options.decay, backward=backward), policy)
