"""What an accelerator is made of: counted in its Verilog, beside what its architecture says by formula."""

import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from hwgen.arch import INDEX_BITS, Arch
from sim.netlist import Netlist

PRODUCT_BITS = {"fp16": 22, "bf16": 16}
"""Width of the product of two significands, by which the array's multipliers are told from address arithmetic."""


def scratchpad_bits(arch: Arch) -> dict[str, int]:
    """Bits of each scratchpad, by formula."""
    array, pads = arch.array, arch.scratchpads
    return {
        "act": array.rows * pads.act_depth * array.cols * 16,
        "wgt": pads.wgt_depth * array.lanes * array.cols * 16,
        "idx": pads.wgt_depth * array.lanes * array.cols * INDEX_BITS,
        "acc": pads.acc_depth * array.cols * 32,
        "curve": arch.vector.curve_entries * arch.vector.words * array.cols * 64,
    }


def resource_report(arch: Arch, netlist: Netlist) -> dict[str, Any]:
    """Counts before synthesis: nothing is shared, removed or mapped yet, so a chip's tool will report other numbers."""
    total, instances = netlist.total(), netlist.instances()
    memories = [
        {"words": words, "bits": bits, "count": count} for (words, bits), count in sorted(total.memories.items())
    ]
    return {
        "arch": arch.name,
        "note": "counted in the Verilog before synthesis; by_formula follows from the architecture alone",
        "multipliers": {str(width): count for width, count in sorted(total.multipliers.items())},
        "adders": {str(width): count for width, count in sorted(total.adders.items())},
        "register_bits": total.register_bits,
        "memory_bits": total.memory_bits,
        "memories": memories,
        "modules": {name: {"instances": instances[name]} | _own(netlist, name) for name in sorted(instances)},
        "by_formula": {
            "array_multipliers": arch.macs,
            "product_bits": PRODUCT_BITS[arch.array.operand],
            "scratchpad_bits": scratchpad_bits(arch),
        },
    }


def _own(netlist: Netlist, name: str) -> dict[str, int]:
    own = netlist.modules[name].own
    return {
        "multipliers": sum(own.multipliers.values()),
        "adders": sum(own.adders.values()),
        "register_bits": own.register_bits,
        "memory_bits": own.memory_bits,
    }


def resource_json(report: Mapping[str, Any]) -> str:
    """The report as JSON text."""
    return json.dumps(report, indent=2) + "\n"


def print_resources(report: Mapping[str, Any], console: Console) -> None:
    """Print the totals and the modules with the most instances."""
    table = Table(title=f"{report['arch']}: counted in the Verilog, before synthesis", title_justify="left")
    for name in ("module", "instances", "multipliers", "adders", "register bits", "memory bits"):
        table.add_column(name, justify="left" if name == "module" else "right", overflow="fold")
    for name, row in sorted(report["modules"].items(), key=lambda item: (-item[1]["instances"], item[0])):
        table.add_row(name, *(f"{row[key]:,}" for key in row))
    table.add_section()
    totals = (sum(report["multipliers"].values()), sum(report["adders"].values()))
    totals += (report["register_bits"], report["memory_bits"])
    table.add_row("whole design", "", *(f"{count:,}" for count in totals))
    console.print(table)
    formula = report["by_formula"]
    counted = report["multipliers"].get(str(formula["product_bits"]), 0)
    console.print(
        f"multipliers of {formula['product_bits']}-bit products: {counted:,} (array: {formula['array_multipliers']:,})"
    )
    pads = ", ".join(f"{name} {bits / 8192:,.0f} KiB" for name, bits in formula["scratchpad_bits"].items())
    console.print(f"scratchpads: {pads}")
