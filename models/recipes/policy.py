"""Which layers are pruned, which stay dense, and why."""

from dataclasses import dataclass

from torch import nn

from hwgen.arch import UserError
from models.pattern import Pattern
from models.recipes.prune import INPUT, OUTPUT


@dataclass(frozen=True)
class Decision:
    """Whether a layer's operands may be pruned along its input channels and along its output channels."""

    input: bool
    output: bool
    reason: str = ""
    """Why not; empty if both may."""


@dataclass(frozen=True)
class SparsityPolicy:
    """What is pruned by `pattern` (None: nothing) in a model: its linear and 2-D convolution layers, with exceptions.

    Products of two activations, as in attention, have no weights and so are dense without being mentioned.
    Layers count in the order in which the model registers them.
    """

    pattern: Pattern | None = None
    dense: tuple[str, ...] = ()
    """Names of further layers that stay dense, as `named_modules` gives them."""
    first_conv: bool = False
    """Prune the first convolution too, whose input is the image with its few channels."""
    classifier: bool = False
    """Prune the last linear layer too."""

    def plan(self, module: nn.Module) -> dict[str, Decision]:
        """Name of every linear and 2-D convolution layer -> decision.

        Raises `UserError` if `dense` names a layer that the model does not have.
        """
        layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)}
        for name in self.dense:
            if name not in layers:
                raise UserError(f"the policy keeps {name!r} dense, a layer that is not among {', '.join(layers)}")
        exceptions = self._exceptions(module, layers)
        return {name: self._decide(layer, exceptions.get(name)) for name, layer in layers.items()}

    def dense_layers(self, module: nn.Module) -> tuple[str, ...]:
        """Names of the layers whose forward operand stays dense."""
        return tuple(name for name, decision in self.plan(module).items() if not decision.input)

    def _exceptions(self, module: nn.Module, layers: dict[str, nn.Module]) -> dict[str, str]:
        """Name -> reason; of several reasons the last one is given."""
        outer = [name for name, part in module.named_modules() if isinstance(part, nn.MultiheadAttention)]
        attention = [name for name in layers if any(name.startswith(f"{part}." if part else "") for part in outer)]
        others = {name: layer for name, layer in layers.items() if name not in attention}
        convs = [name for name, layer in others.items() if isinstance(layer, nn.Conv2d)]
        linears = [name for name, layer in others.items() if isinstance(layer, nn.Linear)]
        reasons = {
            "MultiheadAttention reads its weights itself": attention,
            "classifier": [] if self.classifier else linears[-1:],
            "first convolution": [] if self.first_conv else convs[:1],
            "named in the policy": self.dense,
        }
        return {name: reason for reason, names in reasons.items() for name in names}

    def _decide(self, layer: nn.Module, exception: str | None) -> Decision:
        reason = "no pattern" if self.pattern is None else exception or unsupported(layer)
        if reason:
            return Decision(False, False, reason)
        groups = getattr(layer, "groups", 1)
        inputs, outputs = layer.weight.shape[INPUT], layer.weight.shape[OUTPUT] // groups
        whole = {"input": inputs % self.pattern.m == 0, "output": outputs % self.pattern.m == 0}
        odd = [f"{count} {side}" for (side, fits), count in zip(whole.items(), (inputs, outputs)) if not fits]
        channels = f"{' and '.join(odd)} channels do not divide into groups of {self.pattern.m}" if odd else ""
        return Decision(whole["input"], whole["output"], channels)


def unsupported(layer: nn.Module) -> str:
    """Why a linear or convolution layer cannot take other operands than its own weight; empty if it can."""
    if type(layer) not in (nn.Linear, nn.Conv2d):
        return f"{type(layer).__name__} may compute something of its own"
    if isinstance(layer, nn.Conv2d) and (layer.padding_mode != "zeros" or isinstance(layer.padding, str)):
        return f"padding {layer.padding!r} with {layer.padding_mode} is not supported"
    return ""
