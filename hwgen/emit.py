"""Verilog of a design: one module for each distinct component, the same text on every run.

How to keep a design small, for authors of components:

* Wrap what a design repeats in `Shared` (hwgen/lib/shared.py): `m.submodules.pe_0_1 = pe = Shared(Pe, arch=arch)`
  instead of `Pe(arch=arch)`. Ports are used as before, properties through `pe.component`. Give equal instances equal
  parameters, and let the position of an instance (edge, row number) arrive through ports, not parameters.
  A mesh is best built of shared rows of shared elements: only `rows + cols` instances are then elaborated.
* Without `Shared`, Amaranth writes a module for each instance, drops the ports that the parent leaves unused and folds
  constants that the parent connects, so that elements at an edge differ from those inside. Equal ones are merged here,
  but elaborating 1,024 of them takes a minute first.
* The emitted design has the ports of the component, plus `clk` and `rst` when it has registers. Ports are in
  alphabetical order behind `clk` and `rst`, unused inputs are kept on shared components and on the top.
* Shared components are named by class and parameters, others by the path of their first instance.

The text is Verilog-2005 as Yosys writes it. It has no comments, no source locations and no tool versions.
It passes `verilator --lint-only -Wall` but for the warnings of `LINT_WAIVERS`.
"""

import re

from amaranth.back.verilog import _convert_rtlil_text as rtlil_to_verilog
from amaranth.lib import wiring

from hwgen.lib.memory_text import add_zero_init, drop_zero_init
from hwgen.lib.ram import VERILOG
from hwgen.lib.shared import EmitPlatform
from hwgen.rtlil import merge_modules

LINT_WAIVERS = {
    "CASEINCOMPLETE": "a value is assigned before every case statement; the cases change it",
    "DECLFILENAME": "all modules are in one file",
    "PROCASSINIT": "registers have initial values, which FPGAs load with their configuration",
    "SYMRSVDWORD": "the Vitis kernel interface calls a port `interrupt`",
    "UNUSEDSIGNAL": "fields of words and ports of instances keep their names for waveforms",
    "VARHIDDEN": "an instance may be called like a signal in a module that contains it",
    "WIDTHEXPAND": "operands are extended and",
    "WIDTHTRUNC": "results truncated by the rules of Verilog, as Yosys intends",
}
"""Warnings of `verilator --lint-only -Wall` that emitted text gives, each with its reason."""


def emit_verilog(component: wiring.Component, name: str) -> str:
    """Convert `component` to Verilog with top module `name`; the text depends on the design only."""
    platform = EmitPlatform(reserved=name)
    top = platform.convert(component, name)
    merged = merge_modules(map(drop_zero_init, [top, *platform.texts]), top=name)
    text = add_zero_init(_tidy(rtlil_to_verilog(merged, strip_internal_attrs=True)))
    return text + VERILOG.read_text(encoding="utf-8") if " ram_1r1w " in text else text


_HEADER = re.compile(r"\A/\*.*?\*/\s*", re.S)
_INIT = re.compile(r"^  \(\* init = [^*]*\*\)\n", re.M)
_START = re.compile(r"\\\$auto\$verilog_backend\.cc:\d+:dump_module\$\d+ ")
_ASSERT = re.compile(r"^( *)assert \((.*)\);$", re.M)


def _tidy(text: str) -> str:
    """Remove what depends on the version of Yosys or the rest of the design, and what Verilog-2005 does not know.

    Attributes that repeat an initial value go; an assertion, which is SystemVerilog, becomes `$stop` in simulation.
    """
    for pattern in (_HEADER, _INIT):
        text = pattern.sub("", text)
    return _ASSERT.sub(r"`ifndef SYNTHESIS\n\1if (!(\2)) $stop;\n`endif", _START.sub(r"\\$start ", text))
