"""Parameters as float32 arrays, and weights from `.safetensors` files, a format that cannot hold code."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from hwgen.arch import UserError

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
"""Types of inputs and parameters; all are exact in float32."""


def as_float32(value: torch.Tensor, name: str) -> NDArray[np.float32]:
    """Values of a parameter, exactly; raises `UserError` for a type that float32 does not hold."""
    if value.dtype not in FLOATS:
        raise UserError(f"parameter {name} is {value.dtype}, allowed are {', '.join(str(kind) for kind in FLOATS)}")
    return value.detach().to(torch.float32).numpy().copy()


def read_weights(path: str | Path) -> dict[str, NDArray[np.float32]]:
    """All tensors of a `.safetensors` file by name, as float32. Raises `UserError` on a missing or damaged file."""
    try:
        held = safetensors.torch.load_file(Path(path))
    except OSError as error:
        raise UserError(f"cannot read weights {path}: {error.strerror or error}") from None
    except SafetensorError as error:
        raise UserError(f"{path} is not a .safetensors file, or it is damaged: {error}") from None
    return {name: as_float32(value, name) for name, value in held.items()}


def check_weights(given: Mapping[str, NDArray[np.float32]], wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Raise `UserError` unless `given` has exactly the names of `wanted`, each of its shape."""
    problems = [f"{name} is missing" for name in wanted if name not in given]
    problems += [f"{name} is not in the model" for name in given if name not in wanted]
    problems += [
        f"{name} has shape {list(values.shape)} instead of {list(wanted[name])}"
        for name, values in given.items()
        if name in wanted and values.shape != tuple(wanted[name])
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise UserError(f"the weights do not fit the model: {', '.join(problems[:5])}{more}")
