"""The container of a `.pt2` file, read without trusting it: sizes are bounded and nothing in it is ever executed."""

import io
import pickletools
import struct
import zipfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ml_dtypes import bfloat16
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from hwgen.arch import UserError

MAX_BYTES = 2 << 30
"""Largest sum of all entries."""
MAX_JSON = 64 << 20
"""Largest JSON entry."""
MAX_ENTRIES = 100_000
DTYPES = {6: np.dtype("<f2"), 7: np.dtype("<f4"), 13: np.dtype(bfloat16)}
"""PyTorch's serialised type codes of the parameters that we take."""
_DAMAGED = (zipfile.BadZipFile, EOFError, ValueError, KeyError, IndexError, RuntimeError, struct.error)
"""What Python's zip reader and disassembler raise on bytes that make no sense."""
_TENSOR_GLOBALS = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    *(f"torch {kind}Storage" for kind in ("Float", "Half", "BFloat16", "Double", "Long", "Int", "Bool")),
}
"""What sample inputs that are only tensors refer to."""


Folder = Literal["weights", "constants"]


class Json(BaseModel):
    """Base of the JSON records that are read: other fields are ignored, wrong types are refused."""

    model_config = ConfigDict(extra="ignore", strict=True)


class TensorMeta(Json):
    """Type and shape of a tensor; every size is `{"as_int": n}`, anything else is a dynamic shape."""

    dtype: int
    sizes: list[dict[str, Any]]
    strides: list[dict[str, Any]] = []
    storage_offset: dict[str, Any] = {"as_int": 0}

    def shape(self, name: str) -> tuple[int, ...]:
        """Sizes as integers; raises `UserError` for dynamic or negative ones."""
        sizes = tuple(size.get("as_int") for size in self.sizes)
        if not all(isinstance(size, int) and 0 <= size < 1 << 31 for size in sizes):
            raise UserError(f"{name} has a dynamic shape, which has no lowering: export the model for a fixed batch")
        return sizes


class WeightEntry(Json):
    """Where the bytes of one parameter are."""

    path_name: str
    use_pickle: bool
    tensor_meta: TensorMeta


class WeightConfig(Json):
    """`*_config.json`: parameters by name."""

    config: dict[str, WeightEntry]


class Archive:
    """A `.pt2` zip file. Raises `UserError` on a file that is missing, damaged, too large, compressed or hides code."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.zip = zipfile.ZipFile(path)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror or error}") from None
        except _DAMAGED:
            raise UserError(f"{path} is not a .pt2 file, or it is truncated") from None
        entries = self.zip.infolist()
        if len(entries) > MAX_ENTRIES or sum(entry.file_size for entry in entries) > MAX_BYTES:
            raise UserError(f"{path} is too large: at most {MAX_ENTRIES} entries and {MAX_BYTES >> 30} GiB are read")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise UserError(f"{path} has compressed entries, which .pt2 files of PyTorch never have")
        self.sizes = {entry.filename: entry.file_size for entry in entries}
        self.root = entries[0].filename.split("/", 1)[0] if entries else ""
        self._check_sample_inputs()

    def close(self) -> None:
        """Close the file."""
        self.zip.close()

    def read(self, name: str, limit: int = MAX_BYTES) -> bytes:
        """Bytes of the entry `name` below the archive's root folder."""
        full = f"{self.root}/{name}"
        if full not in self.sizes:
            raise UserError(f"{self.path} has no entry {name}: it is not a .pt2 file of torch.export.save")
        if self.sizes[full] > limit:
            raise UserError(f"{self.path}: entry {name} has {self.sizes[full]} bytes, at most {limit} are read")
        try:
            return self.zip.read(full)
        except (OSError, *_DAMAGED):
            raise UserError(f"{self.path}: entry {name} is damaged") from None

    def json(self, name: str, model: type[Json]) -> Any:
        """A JSON entry, validated as `model`."""
        try:
            return model.model_validate_json(self.read(name, MAX_JSON))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "text"
            raise UserError(f"{self.path}: {name}: {place}: {first['msg'].lower()}") from None

    def entries(self, folder: Folder) -> dict[str, WeightEntry]:
        """Descriptions of all parameters (or constants) by name. Pickled ones are refused."""
        config: WeightConfig = self.json(f"data/{folder}/model_{folder}_config.json", WeightConfig)
        for name, entry in config.config.items():
            if entry.use_pickle:
                raise UserError(
                    f"{self.path}: parameter {name} is stored as a pickle, which can run code; it is refused"
                )
        return config.config

    def tensor(self, folder: Folder, name: str, entry: WeightEntry) -> NDArray[np.float32]:
        """Values of a parameter (or constant)."""
        what = f"{self.path}: parameter {name}"
        if entry.tensor_meta.dtype not in DTYPES:
            raise UserError(
                f"{what} has type code {entry.tensor_meta.dtype}, allowed are float32, float16 and bfloat16"
            )
        dtype, shape = DTYPES[entry.tensor_meta.dtype], entry.tensor_meta.shape(what)
        data = self.read(f"data/{folder}/{entry.path_name}")
        strides = tuple(stride.get("as_int") for stride in entry.tensor_meta.strides)
        if strides != _row_major(shape) or entry.tensor_meta.storage_offset.get("as_int") != 0:
            raise UserError(f"{what} is not stored contiguously: save a contiguous copy of it")
        expected = int(np.prod(shape, dtype=object)) * dtype.itemsize
        if len(data) != expected:
            raise UserError(f"{what} of shape {list(shape)} needs {expected} bytes, the file has {len(data)}")
        return np.frombuffer(data, dtype=dtype).reshape(shape).astype(np.float32)

    def _check_sample_inputs(self) -> None:
        """Disassemble (never load) the pickled sample inputs, which we do not need: they must refer to tensors only."""
        name = "data/sample_inputs/model.pt"
        if f"{self.root}/{name}" not in self.sizes:
            return
        try:
            with zipfile.ZipFile(io.BytesIO(self.read(name, MAX_JSON))) as inner:
                if sum(item.file_size for item in inner.infolist()) > MAX_JSON:
                    raise UserError(f"{self.path}: the sample inputs are larger than {MAX_JSON >> 20} MiB")
                programs = [inner.read(item) for item in inner.namelist() if item.endswith(".pkl")]
            found = {str(value) for text in programs for code, value, _ in pickletools.genops(text) if _is_global(code)}
        except UserError:
            raise
        except (OSError, *_DAMAGED):
            raise UserError(f"{self.path}: the sample inputs are damaged") from None
        if found - _TENSOR_GLOBALS:
            raise UserError(
                f"{self.path} hides code in its sample inputs ({min(found - _TENSOR_GLOBALS)}); it is refused"
            )


def _is_global(code: pickletools.OpcodeInfo) -> bool:
    return code.name in ("GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4")


def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))
