"""What all operators of a training step have in common: fields that name tensors, and what the names stand for.

The type of a field says what its name stands for: a `Result` is defined by the operator, a `Source` is read, `InPlace`
is read and overwritten, a `Scalar` is a hyper-parameter. `None` means that nobody wants the result, or that there is
no such operand. Every tensor is `[N, H, W, C]`; a *channel vector* is `[1, 1, 1, C]`.
"""

from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Annotated, Any, get_args, get_type_hints

Result = Annotated[str, "result"]
Source = Annotated[str, "source"]
InPlace = Annotated[str, "in place"]
Scalar = Annotated[str, "scalar"]
Pair = tuple[int, int]
"""A vertical and a horizontal number."""


@dataclass(frozen=True)
class Operator:
    """Base of all operators."""

    def names(self, *roles: str) -> tuple[str, ...]:
        """Names in the fields of some roles (`result`, `source`, `in place`, `scalar`), in the order of the fields."""
        found: list[str] = []
        for field in _fields_of(type(self), roles):
            value = getattr(self, field)
            found += value if isinstance(value, tuple) else [] if value is None else [value]
        return tuple(found)

    def renamed(self, names: dict[str, str]) -> "Operator":
        """The operator on tensors of other names."""
        changed = {}
        for field in _fields_of(type(self), ("result", "source", "in place")):
            value = getattr(self, field)
            many = isinstance(value, tuple)
            changed[field] = tuple(names.get(name, name) for name in value) if many else names.get(value, value)
        return replace(self, **changed)

    def reduced(self, needed: set[str]) -> "Operator":
        """The operator without results that are not needed, where it can do without."""
        optional = [name for name in _fields_of(type(self), ("result",)) if _may_be_none(type(self), name)]
        return replace(self, **{name: None for name in optional if getattr(self, name) not in needed})

    def settings(self) -> dict[str, Any]:
        """Fields that are numbers and flags."""
        named = _fields_of(type(self), ("result", "source", "in place", "scalar"))
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name not in named}


@cache
def _fields_of(kind: type[Operator], roles: tuple[str, ...]) -> tuple[str, ...]:
    hints = get_type_hints(kind, include_extras=True)
    return tuple(name for name, hint in hints.items() if _roles(hint) & set(roles))


def _may_be_none(kind: type[Operator], field: str) -> bool:
    return type(None) in get_args(get_type_hints(kind)[field])


def _roles(hint: Any) -> set[str]:
    own = set(getattr(hint, "__metadata__", ()))
    return own.union(*(_roles(part) for part in get_args(hint) if part is not str))


@dataclass(frozen=True, kw_only=True)
class Window:
    """Geometry of a convolution or pooling window; the padding is the same on opposite sides."""

    kernel: Pair
    stride: Pair
    padding: Pair


@dataclass(frozen=True, kw_only=True)
class Filter(Window):
    """Window of a convolution; the channels are cut into `groups` that do not see one another."""

    groups: int
