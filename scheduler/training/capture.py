"""PyTorch module, loss, example batch and optimizer -> training graph of one step."""

import inspect
from collections.abc import Callable

import torch

from hwgen.arch import UserError
from scheduler.convert import free_name
from scheduler.training.convert.assemble import Assembly
from scheduler.training.convert.aten import Given, convert
from scheduler.training.convert.joint import trace
from scheduler.training.convert.optimizers import read_optimizer
from scheduler.training.graph.ir import Kind, TrainingGraph
from scheduler.weights import FLOATS

LOSSES = {"cross_entropy": torch.nn.CrossEntropyLoss, "mse": torch.nn.MSELoss}
INTEGERS = (torch.int64, torch.int32)


def capture_training(
    module: torch.nn.Module,
    loss: str | torch.nn.Module,
    example_inputs: tuple[torch.Tensor, ...],
    example_targets: torch.Tensor | tuple[torch.Tensor, ...],
    optimizer: torch.optim.Optimizer,
) -> TrainingGraph:
    """Graph of one training step of `module` for batches of exactly these shapes; `module` is left as it was.

    `loss` is `cross_entropy` or `mse` (means over the batch), or a module that is called with the model's output and
    the targets. Modules and examples made inside `fake_mode` give a graph without values. Raises `UserError` for
    what cannot be captured, and one that names every operator without a lowering.
    """
    criterion = _criterion(module, loss)
    targets = example_targets if isinstance(example_targets, tuple) else (example_targets,)
    given = _given(module, example_inputs, targets)
    parameters, same = _parameters(module)
    rules = read_optimizer(optimizer, {id(value): name for name, value in parameters.items()})
    buffers = dict(module.named_buffers())
    integers = {name for name, value in buffers.items() if not value.is_floating_point()}
    converted = convert(trace(module, criterion, example_inputs, targets), given, same, integers)
    return Assembly(converted, rules, {**buffers, **parameters}).graph()


def _criterion(module: torch.nn.Module, loss: str | torch.nn.Module) -> Callable[..., torch.Tensor]:
    if not isinstance(module, torch.nn.Module):
        raise UserError(f"a model must be a torch.nn.Module, not {type(module).__name__}")
    if isinstance(loss, str) and loss in LOSSES:
        return LOSSES[loss]()
    if not isinstance(loss, torch.nn.Module):
        raise UserError(f"a loss must be {', '.join(LOSSES)} or a torch.nn.Module, not {loss!r}")
    if any(True for _ in loss.parameters()):
        raise UserError("a loss must not have parameters: make it part of the model")
    return loss


def _given(module: torch.nn.Module, inputs: tuple, targets: tuple) -> list[Given]:
    """Names and kinds of inputs and targets; inputs are called as the parameters of `forward` are."""
    if not isinstance(inputs, tuple) or not inputs or not targets:
        raise UserError("example inputs must be a tuple with at least one tensor, and there must be a target")
    names = list(inspect.signature(module.forward).parameters)
    names += [f"input{number}" for number in range(len(names), len(inputs))]
    names = names[: len(inputs)]
    for number in range(len(targets)):
        names.append(free_name("target" if len(targets) == 1 else f"target{number}", names))
    kinds = [Kind.INPUT] * len(inputs) + [Kind.LABEL] * len(targets)
    return [_checked(name, value, kind) for name, value, kind in zip(names, (*inputs, *targets), kinds, strict=True)]


def _checked(name: str, value: object, kind: Kind) -> Given:
    if not isinstance(value, torch.Tensor) or value.dtype not in FLOATS + INTEGERS:
        found = value.dtype if isinstance(value, torch.Tensor) else type(value).__name__
        raise UserError(
            f"{kind} {name} must be a tensor of real numbers of at most 32 bits or of integers, not {found}"
        )
    if 0 in value.shape or value.device.type == "meta":
        raise UserError(
            f"{kind} {name} has shape {list(value.shape)} on {value.device}: it must hold values, or be fake"
        )
    return Given(name, kind, value.dtype in INTEGERS)


def _parameters(module: torch.nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Parameters by their first name, and the first name of every name."""
    first: dict[int, str] = {}
    same = {}
    for name, value in module.named_parameters(remove_duplicate=False):
        if value.device.type == "meta":
            raise UserError(f"parameter {name} is on the meta device, where PyTorch makes no gradients: use fake_mode")
        if value.dtype != torch.float32:
            raise UserError(
                f"parameter {name} is {value.dtype}: training keeps parameters in float32, allowed is torch.float32"
            )
        same[name] = first.setdefault(id(value), name)
    buffers = {name: name for name, _ in module.named_buffers()}
    return {name: value for name, value in module.named_parameters()}, {**buffers, **same}
