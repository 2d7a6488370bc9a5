"""Merges equal modules in the RTLIL text that Amaranth writes, where every instance has a module of its own."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

_MODULE = re.compile(r"^((?:attribute [^\n]*\n)*)module \\(\S+)\n(.*?)^end\n", re.M | re.S)
_WIRE = re.compile(r"^((?:  attribute [^\n]*\n)*)  wire ([^\n]*)\n\n?", re.M)
_CELL = re.compile(r"^  cell \\(\S+) (\S+)\n(.*?)^  end\n", re.M | re.S)
_CONNECT = re.compile(r"^    connect (\\\S+) ", re.M)
_NUMBERED_PORT = re.compile(r"\\port\$\d+\$\d+(?=[ \n])")
_DIRECTIONS = {"input", "output", "inout"}
_FIRST_PORTS = ("\\clk", "\\rst")


@dataclass(frozen=True)
class _Module:
    """A module in its canonical form; `ports` gives the new names of ports that were renamed."""

    name: str
    attributes: str
    body: str
    ports: dict[str, str]


def merge_modules(texts: Iterable[str], *, top: str) -> str:
    """Join RTLIL texts, and merge modules whose bodies are equal once the modules inside them are merged.

    Ports and wires are sorted, ports that Amaranth numbered are numbered anew, and modules are named with plain
    identifiers: the path of their first instance with `_` for what is not a letter or digit. Modules that the first
    text names stay in the order of first use, top first. Modules that `top` does not reach are dropped.
    """
    parsed = {name: (attributes, body) for text in texts for attributes, name, body in _MODULE.findall(text)}
    done: dict[str, _Module] = {}
    by_body: dict[tuple[str, str], _Module] = {}
    names = _Names()

    def visit(name: str) -> _Module:
        if name not in done:
            attributes, body = parsed[name]
            plain = names.plain(name)
            body, ports = _canonical(_CELL.sub(rewire, body))
            done[name] = by_body.setdefault((attributes, body), _Module(plain, attributes, body, ports))
        return done[name]

    def rewire(cell: re.Match) -> str:
        kind, instance, connections = cell.groups()
        if kind not in parsed:
            return cell[0]
        module = visit(kind)
        connections = _CONNECT.sub(lambda match: f"    connect {module.ports.get(match[1], match[1])} ", connections)
        return f"  cell \\{module.name} {instance}\n{connections}  end\n"

    visit(top)
    merged = list(by_body.values())
    return "".join(f"{module.attributes}module \\{module.name}\n{module.body}end\n\n" for module in reversed(merged))


def _canonical(body: str) -> tuple[str, dict[str, str]]:
    """Number unnamed ports, sort wires by name and ports behind clock and reset; returns body and renamed ports."""
    ports = {old: f"\\port${index}" for index, old in enumerate(dict.fromkeys(_NUMBERED_PORT.findall(body)))}
    body = _NUMBERED_PORT.sub(lambda match: ports[match[0]], body)
    wires = [(attributes, words.split()) for attributes, words in _WIRE.findall(body)]
    lines, port = [], 1  # Yosys puts port 0 last
    for attributes, words in sorted(wires, key=lambda wire: (wire[1][-1] not in _FIRST_PORTS, wire[1][-1])):
        for direction in _DIRECTIONS & set(words):
            words[words.index(direction) + 1] = str(port)
            port += 1
        lines.append(f"{attributes}  wire {' '.join(words)}\n")
    return "".join(lines) + _WIRE.sub("", body), ports


class _Names:
    """Plain identifiers, each given once; case is ignored, because file systems and VHDL tools do."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def plain(self, name: str) -> str:
        """A free identifier close to `name`."""
        base = re.sub(r"\W+|\$", "_", name)
        candidate, number = base, 2
        while candidate.lower() in self._taken:
            candidate, number = f"{base}_{number}", number + 1
        self._taken.add(candidate.lower())
        return candidate
