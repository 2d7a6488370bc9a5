"""The job `generate`: an architecture becomes a folder with its Verilog and what a host needs to use it."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter

from hwgen.arch import Arch
from hwgen.arch.tables import c_header, register_json
from sim.design import TOP, verilog
from sim.files import output_folder
from sim.netlist import parse
from sim.resources import resource_json, resource_report
from sim.verilate import Progress

FILES = {
    f"{TOP}.v": "Verilog-2005, top module `accelerator`",
    f"{TOP}.f": "file list for simulators and synthesis",
    f"{TOP}.h": "registers, codes and sizes for a C host",
    "registers.json": "the same for other languages",
    "arch.yaml": "the architecture, every setting written out",
    "resources.json": "what the Verilog is made of",
}
"""What `generate` writes, with what each file is."""


def arch_data(arch: Arch) -> dict[str, Any]:
    """The architecture as plain data with every setting."""
    return TypeAdapter(Arch).dump_python(arch, mode="json")


def arch_yaml(arch: Arch) -> str:
    """The architecture as YAML; `hwgen.arch.load` reads it back to an equal object."""
    return yaml.safe_dump(arch_data(arch), sort_keys=False)


def generate(arch: Arch, folder: Path, *, progress: Progress | None = None) -> dict[str, Any]:
    """Write FILES into `folder`, all or none, and return the resource report. Raises `UserError` if that cannot be."""
    report = progress or (lambda text: None)
    report(f"Verilog of {arch.name}")
    text = verilog(arch)
    report("resources")
    resources = resource_report(arch, parse(text, TOP))
    contents = {
        f"{TOP}.v": text,
        f"{TOP}.f": f"{TOP}.v\n",
        f"{TOP}.h": c_header(arch),
        "registers.json": register_json(arch),
        "arch.yaml": arch_yaml(arch),
        "resources.json": resource_json(resources),
    }
    with output_folder(folder) as partial:
        for name, content in contents.items():
            (partial / name).write_text(content, encoding="utf-8")
    return resources
