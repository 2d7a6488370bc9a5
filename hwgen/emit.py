"""Verilog of a design: one module for each distinct component, the same text on every run.

How to keep a design small, for authors of components:

* Wrap what a design repeats in `Shared` (hwgen/lib/shared.py): `m.submodules.pe_0_1 = pe = Shared(Pe, arch=arch)`
  instead of `Pe(arch=arch)`. Ports are used as before, properties through `pe.component`. Give equal instances equal
  parameters, and let the position of an instance (edge, row number) arrive through ports, not parameters.
  A mesh is best built of shared rows of shared elements: only `rows + cols` instances are then elaborated.
* Without `Shared`, Amaranth writes a module for each instance, drops the ports that the parent leaves unused and folds
  constants that the parent connects, so that elements at an edge differ from those inside. Equal ones are merged here,
  but elaborating and printing 1,024 of them takes a minute first.
* The emitted design has the ports of the component, plus `clk` and `rst` when it has registers.
"""

import re

from amaranth.back.verilog import _convert_rtlil_text as rtlil_to_verilog
from amaranth.lib import wiring

from hwgen.lib.memory_text import add_zero_init, drop_zero_init
from hwgen.lib.ram import VERILOG
from hwgen.lib.shared import EmitPlatform


def emit_verilog(component: wiring.Component, name: str) -> str:
    """Convert `component` to Verilog-2005 with top module `name`; the text depends on the design only."""
    platform = EmitPlatform(reserved=name)
    top = platform.convert(component, name)
    merged = merge_modules(drop_zero_init("\n".join([top, *platform.texts])), keep=name)
    text = rtlil_to_verilog(merged, strip_internal_attrs=True)
    text = add_zero_init(re.sub(r"\A/\*.*?\*/\s*", "", text))
    return text + VERILOG.read_text(encoding="utf-8") if " ram_1r1w " in text else text


_MODULE = re.compile(r"^((?:attribute [^\n]*\n)*)module (\S+)\n(.*?)^end\n", re.M | re.S)
_CELL = re.compile(r"^(  cell )(\\\S+)( \S+)$", re.M)


def merge_modules(text: str, *, keep: str) -> str:
    """Merge modules of an RTLIL text whose bodies are equal once the modules inside them are merged.

    Modules are named by the path of their first instance, with `_` for the dots. `keep` is the top module.
    """
    modules = {name: (attributes, body) for attributes, name, body in _MODULE.findall(text)}
    representative: dict[str, str] = {}
    by_body: dict[str, str] = {}
    result: dict[str, str] = {}

    def visit(name: str) -> str:
        if name not in representative:
            body = _CELL.sub(
                lambda cell: cell[1] + (visit(cell[2]) if cell[2] in modules else cell[2]) + cell[3], modules[name][1]
            )
            representative[name] = by_body.setdefault(body, name)
            if representative[name] == name:
                result[name] = body
        return representative[name]

    visit(f"\\{keep}")
    return "".join(f"{modules[name][0]}module {name}\n{body}end\n" for name, body in reversed(result.items()))
