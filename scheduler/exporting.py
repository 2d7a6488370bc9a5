"""PyTorch's export of a module, as every capture of one runs it."""

import contextlib
import warnings
from collections.abc import Iterator

import torch

from scheduler.boundary import Boundary, quiet


@contextlib.contextmanager
def exporting(module: torch.nn.Module, what: str) -> Iterator[None]:
    """Whatever is raised inside becomes a `UserError` that begins with `what`; the modes of all parts are kept."""
    modes = [(child, child.training) for child in module.modules()]
    try:
        with Boundary(what), quiet(), warnings.catch_warnings():
            # PyTorch 2.13 meets its own deprecated LeafSpec on this path.
            warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
            yield
    finally:
        for child, mode in modes:
            child.training = mode
