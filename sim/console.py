"""What the command line prints, and where: results to standard output, progress and errors to standard error."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.markup import escape

from hwgen.arch import UserError
from sim.verilate import Progress


@contextlib.contextmanager
def standard_output() -> Iterator[Console]:
    """A console on standard output; a full disk or closed pipe behind it becomes a `UserError`."""
    try:
        yield Console(width=None if sys.stdout.isatty() else 120)
        sys.stdout.flush()
    except OSError as error:
        # What is still buffered must not fail a second time when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise UserError(f"cannot write to standard output: {error.strerror or error}") from None


def print_json(data: Any) -> None:
    """Print one JSON document and nothing else."""
    with standard_output():
        sys.stdout.write(json.dumps(data, indent=2) + "\n")


@contextlib.contextmanager
def progress() -> Iterator[Progress]:
    """Called with what is being done; shown as a moving line if standard error is a terminal, else not at all."""
    console = Console(stderr=True)
    with console.status("starting") as status:
        yield lambda text: status.update(escape(text))


def print_error(text: str) -> None:
    """Print an error as one sentence."""
    Console(stderr=True, soft_wrap=True).print(f"[red]error:[/red] {escape(text)}", highlight=False)
