"""A model of `transformers` with one sequence for it, and what a host must know of both before it compiles."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hwgen.arch import UserError
from models.attention.attention import Magnitudes
from models.attention.calibrate import calibrate
from scheduler.attention.encoders import Encoder, encoder_of
from scheduler.attention.lengths import lengths_of
from scheduler.boundary import Boundary
from scheduler.load import call_function
from sim.attention.pruned_job import PrunedJob

Inputs = dict[str, Tensor]
"""Arguments of a model by name."""


@dataclass(frozen=True)
class Example:
    """A model and one sequence for it."""

    model: nn.Module
    inputs: Inputs
    calibration: tuple[Inputs, ...]
    """What sets the steps of quantisation."""
    words: tuple[str, ...] = ()
    """Of each token, if they are words."""


@dataclass(frozen=True)
class Layers:
    """The first layers of a model with the sequence before them."""

    encoder: Encoder
    hidden: Tensor
    """Before the first layer, by the host: [1, T, D], without padding."""
    magnitudes: list[Magnitudes]

    def tables(self, first: int, count: int) -> tuple[Tensor, ...]:
        """What belongs to positions, for models that have any."""
        with self._alone():
            return self.encoder.body.tables(first, count)

    def plain(self, hidden: Tensor) -> Tensor:
        """Behind the last layer, in float32 with nothing pruned: [1, T, D] -> [T, D]."""
        tables = self.tables(0, hidden.shape[1])
        with self._alone(), torch.no_grad():
            return self.encoder.body(hidden, *tables)[0]

    def _alone(self) -> Boundary:
        return Boundary(f"the layers of {type(self.encoder.model).__name__} cannot run alone")


def function_example(job: PrunedJob) -> Example:
    """What `path/to/file.py:function` returns, which is executed; calibrated on its own example.

    Raises `UserError`, one sentence, for everything that is wrong with the name, the file, or what is returned.
    """
    spec = job.model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.seed)
        made = call_function(spec)
    if made is None:
        raise UserError(f"cannot tell what model {spec!r} is: give {job.named} or path/to/file.py:function")
    model, given = made
    inputs = _by_name(spec, model, given)
    return Example(model.eval().float(), inputs, (inputs,))


def _by_name(spec: str, model: nn.Module, given: object) -> Inputs:
    """Tensors by name, from a mapping or from the main input alone."""
    if isinstance(given, tuple | list) and len(given) == 1:
        (given,) = given
    if isinstance(given, Tensor):
        given = {getattr(model, "main_input_name", "input_ids"): given}
    if not isinstance(given, Mapping) or not all(isinstance(value, Tensor) for value in given.values()):
        raise UserError(
            f"{spec} must return a model and the inputs of one sequence, tensors by name as in "
            "{'input_ids': ids}, or its main input"
        )
    return {name: value.float() if value.is_floating_point() else value for name, value in given.items()}


def layers_of(example: Example, layers: int | None) -> Layers:
    """Embed and calibrate the first `layers` layers, or all of them. Padding on the right is left out.

    Raises `UserError` for models that cannot be pruned or lowered, and unless there is one sequence of tokens.
    """
    model, inputs = example.model, example.inputs
    with Boundary(f"{type(model).__name__} cannot run on its example inputs"), torch.no_grad():
        encoder = encoder_of(model, layers)
        hidden = encoder.embed(**inputs)
    if hidden.shape[0] != 1:
        raise UserError(f"a program is for one sequence, the example inputs are {hidden.shape[0]}")
    if inputs.get("attention_mask") is not None:
        hidden = hidden[:, : lengths_of(inputs["attention_mask"])[0]]
    if not hidden.shape[1]:
        raise UserError("the sequence of the example inputs has no tokens")
    with Boundary(f"{type(model).__name__} cannot be calibrated"):
        magnitudes = calibrate(model, example.calibration)[:layers]
    return Layers(encoder, hidden, magnitudes)
