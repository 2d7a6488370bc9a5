"""Where code of the user or of PyTorch is called: whatever it raises becomes one sentence."""

import contextlib
import io
import logging
import traceback
from collections.abc import Iterator
from types import TracebackType

from hwgen.arch import UserError


class Boundary:
    """Context manager that turns every exception of the code inside into a `UserError` that says what was going on.

    `what` begins the sentence; a `file` adds the line of the innermost frame in that file. `UserError` passes as it is,
    and so do KeyboardInterrupt and MemoryError, which are not the fault of the code inside.
    """

    def __init__(self, what: str, file: str = "") -> None:
        self.what = what
        self.file = file

    def __enter__(self) -> None:
        """Nothing to set up."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, UserError | KeyboardInterrupt | MemoryError):
            return
        text = next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
        raise UserError(f"{self.what}{self._line(error, trace)}: {type(error).__name__}: {text[:300]}") from None

    def _line(self, error: BaseException, trace: TracebackType | None) -> str:
        if not self.file:
            return ""
        if isinstance(error, SyntaxError) and error.filename == self.file:
            return f", line {error.lineno}"
        lines = [frame.lineno for frame in traceback.extract_tb(trace) if frame.filename == self.file]
        return f", line {lines[-1]}" if lines else ""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop log records and standard error of the code inside: PyTorch prints whole graphs there before it raises."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)
