"""Counts what emitted Verilog is made of: instances, operators, registers and memories, by module and in all.

Reads the regular text that `hwgen.emit` writes, not Verilog in general. The counts are taken before synthesis: a
multiplier by a constant counts, and nothing that synthesis removes or shares is left out.
"""

import re
from collections import Counter
from dataclasses import dataclass, field

_MODULE = re.compile(r"^module (\\\S+|\w+) ?\((.*?)^endmodule", re.M | re.S)
_INSTANCE = re.compile(r"^  (\\\S+|\w+) +(?:\\\S+|\w+) +\(\n    \.", re.M)
_DECLARATION = re.compile(r"^  (?:input|output|wire|reg)(?: signed)?(?: \[(\d+):0\])? (\S+)(?: = [^;]*)?\s*;", re.M)
_MEMORY = re.compile(r"^  reg \[(\d+):0\] (\S+)\s*\[(\d+):0\];", re.M)
_RAM = re.compile(r"^  ram_1r1w #\(\n((?:    \.\w+\(.*\),?\n)*)  \) \S+ \(", re.M)
_PARAMETER = re.compile(r"\.(\w+)\(32'd(\d+)\)")
_OPERATION = re.compile(r"^  assign (\S+)\s* = [^;?]*? ([*+-]) [^;?]*;", re.M)
_CLOCKED = re.compile(r"^  always @\(posedge \S+\)(?: begin\n(.*?)^  end|\n(.*?;)$)", re.M | re.S)
_ASSIGNED = re.compile(r"^\s+(?:if \([^)]*\) )?(\\?\S+)\s*<= ", re.M)


@dataclass
class Resources:
    """Contents of one module, or of a design when the instances below are added."""

    multipliers: Counter[int] = field(default_factory=Counter)
    """How many multiplications, by the width of the product in bits."""
    adders: Counter[int] = field(default_factory=Counter)
    """How many additions and subtractions, by the width of the result in bits."""
    register_bits: int = 0
    memories: Counter[tuple[int, int]] = field(default_factory=Counter)
    """How many memories, by (words, bits of a word)."""

    def add(self, other: "Resources", times: int = 1) -> None:
        """Add `times` copies of another module's contents."""
        for mine, theirs in ((self.multipliers, other.multipliers), (self.adders, other.adders)):
            for width, count in theirs.items():
                mine[width] += times * count
        for shape, count in other.memories.items():
            self.memories[shape] += times * count
        self.register_bits += times * other.register_bits

    @property
    def memory_bits(self) -> int:
        """Bits in memories."""
        return sum(words * bits * count for (words, bits), count in self.memories.items())


@dataclass(frozen=True)
class ModuleText:
    """One module: its contents and the modules that it instantiates."""

    name: str
    own: Resources
    instances: Counter[str]


@dataclass(frozen=True)
class Netlist:
    """All modules of a design by name, and its top."""

    top: str
    modules: dict[str, ModuleText]

    def instances(self) -> dict[str, int]:
        """How often each module occurs in the whole design."""
        counts: Counter[str] = Counter()
        for name in self._top_down():
            times = 1 if name == self.top else counts[name]
            counts[name] = times
            for child, count in self.modules[name].instances.items():
                counts[child] += times * count
        return dict(counts)

    def total(self) -> Resources:
        """Contents of the whole design."""
        result = Resources()
        for name, times in self.instances().items():
            result.add(self.modules[name].own, times)
        return result

    def _top_down(self) -> list[str]:
        """Modules, each after every module that instantiates it."""
        order: list[str] = []

        def visit(name: str) -> None:
            if name not in order:
                for child in self.modules[name].instances:
                    visit(child)
                order.append(name)

        visit(self.top)
        return order[::-1]


def parse(verilog: str, top: str) -> Netlist:
    """Read emitted Verilog. `top` is the module to count from; KeyError if it is missing."""
    texts = dict(_MODULE.findall(verilog))
    modules = {name: _module(name, body, set(texts)) for name, body in texts.items()}
    return Netlist(top, {top: modules.pop(top), **modules})


def _module(name: str, body: str, known: set[str]) -> ModuleText:
    widths = {found: int(high or 0) + 1 for high, found in _DECLARATION.findall(body)}
    own = Resources()
    for target, operator in _OPERATION.findall(body):
        (own.multipliers if operator == "*" else own.adders)[widths.get(target, 0)] += 1
    for high, _, last in _MEMORY.findall(body):
        own.memories[int(last) + 1, int(high) + 1] += 1
    for parameters in _RAM.findall(body):
        sizes = dict(_PARAMETER.findall(parameters))
        own.memories[int(sizes["DEPTH"]), int(sizes["WIDTH"])] += 1
    assigned = [found for block in _CLOCKED.findall(body) for found in _ASSIGNED.findall("".join(block))]
    clocked = {found if found in widths else found.split("[")[0] for found in assigned}
    own.register_bits = sum(widths.get(found, 0) for found in clocked)
    return ModuleText(name, own, Counter(kind for kind in _INSTANCE.findall(body) if kind in known))
