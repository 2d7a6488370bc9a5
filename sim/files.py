"""Output folders that appear whole or not at all."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hwgen.arch import UserError


@contextlib.contextmanager
def output_folder(target: Path) -> Iterator[Path]:
    """A temporary folder whose files are moved to `target` when the block ends well, and deleted otherwise.

    Files of `target` with other names stay. Raises `UserError` when the folder cannot be made or a file not be written
    (no permission, full disk); inside the block, `OSError` becomes the same.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and not target.is_dir():
            raise UserError(f"cannot write to {target}: it is not a folder")
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
    except FileExistsError:
        raise UserError(f"cannot write to {target}: {target.parent} is not a folder") from None
    except OSError as error:
        raise UserError(f"cannot write to {target}: {error.strerror or error}") from None
    try:
        partial.chmod(0o777 & ~_umask())
        yield partial
        _move(partial, target)
    except OSError as error:
        raise UserError(f"cannot write to {target}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _move(partial: Path, target: Path) -> None:
    if not target.exists():
        partial.replace(target)
        return
    if not os.access(target, os.W_OK | os.X_OK):
        raise PermissionError(13, os.strerror(13))
    paths = sorted(partial.iterdir())
    for path in paths:
        if (target / path.name).is_dir():
            raise IsADirectoryError(21, f"{path.name} in it is a folder")
    for path in paths:
        path.replace(target / path.name)
