"""Components that are emitted once, however many instances a design has.

Amaranth writes one Verilog module for every instance. A `Shared` component becomes an `Instance` of a module that is
written once for each class and set of parameters; in Amaranth's own simulator it elaborates like any other component.
"""

import enum
import hashlib
import re
from collections.abc import Hashable
from typing import Any

from amaranth.back import rtlil
from amaranth.hdl import ClockSignal, Const, Elaboratable, Instance, Module, ResetSignal, Value
from amaranth.hdl._ir import PortDirection  # public only as a result of a conversion, needed to ask for one
from amaranth.lib import wiring
from amaranth.lib.wiring import In

_NAME_LIMIT = 60
_DOMAIN_PORTS = ("clk", "rst")


class Shared(wiring.Component):
    """One instance of a component whose module is emitted once.

    `Shared(Pe, lanes=2)` has the ports of `Pe(lanes=2)` and behaves like it. Share whatever a design has many of: array
    rows and processing elements, floating point units, buffers. Shared components may contain shared components.

    The inside may use only the domain `sync`. `ResetInserter` and `EnableInserter` around a shared component don't
    reach into it; `DomainRenamer` does.

    Timing
    ------
    That of the component; the wrapper adds nothing.

    Parameters
    ----------
    cls : type         Class of the component.
    params             Its keyword arguments. All must be hashable: equal arguments mean the same module.

    Members
    -------
    Those of the component. `component` is an instance of it, for properties such as `latency`.
    """

    def __init__(self, cls: type[wiring.Component], /, *, src_loc_at: int = 0, **params: Hashable) -> None:
        for name, value in params.items():
            if not isinstance(value, Hashable):
                raise TypeError(f"Shared({cls.__name__}): parameter {name} must be hashable, not {value!r}")
        self.cls, self.params = cls, params
        self.component = cls(**params)
        # Only one of many equal instances is elaborated; the others serve as their port lists.
        self.component._MustUse__silence = True
        super().__init__(self.component.signature, src_loc_at=1 + src_loc_at)

    def elaborate(self, platform: Any) -> Elaboratable:
        """Become an instance under `EmitPlatform`, the component itself elsewhere."""
        if isinstance(platform, EmitPlatform):
            return platform.instance(self)
        m = Module()
        m.submodules.component = self.component
        wiring.connect(m, wiring.flipped(self), self.component)
        return m


def module_name(cls: type, params: dict[str, Hashable]) -> str:
    """Readable module name from a class and its parameters, a plain Verilog identifier of at most 60 characters."""
    words = [cls.__name__, *(f"{name}_{_word(value)}" for name, value in params.items())]
    name = re.sub(r"[\W_]+", "_", "_".join(words)).strip("_")
    if len(name) > _NAME_LIMIT:
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        name = f"{name[: _NAME_LIMIT - 9].rstrip('_')}_{digest}"
    return name


def _word(value: Hashable) -> str:
    if isinstance(value, type):
        return value.__name__
    if isinstance(value, enum.Enum):
        return value.name.lower()
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(getattr(value, "name", None), str):
        return value.name
    return repr(value) if value != "" else "empty"


def component_ports(component: wiring.Component) -> dict[str, tuple[Value, Any]]:
    """Ports of a component as Amaranth's back ends want them.

    Members that are constants (`ready` of an `always_ready` stream) are left out, they need no wire.
    """
    ports = {}
    for path, member, value in component.signature.flatten(component):
        value = Value.cast(value)
        if not isinstance(value, Const):
            direction = PortDirection.Input if member.flow is In else PortDirection.Output
            ports["__".join(map(str, path))] = (value, direction)
    return ports


class EmitPlatform:
    """Platform that collects the RTLIL of every shared component while a design is elaborated.

    `texts` has one entry for each distinct component, those inside others first.
    """

    def __init__(self, *, reserved: str = "") -> None:
        self.texts: list[str] = []
        self._modules: dict[Hashable, tuple[str, tuple[str, ...]]] = {}
        self._taken = {reserved.lower()}

    def instance(self, shared: Shared) -> Instance:
        """An instance of the module of `shared`, connected to its ports; the module is emitted if it is new."""
        key = (shared.cls, tuple(sorted(shared.params.items())))
        if key not in self._modules:
            self._modules[key] = self._emit(shared)
        name, domain_ports = self._modules[key]
        connections = dict(zip(_DOMAIN_PORTS, (ClockSignal(), ResetSignal())))
        ports = {f"i_{port}": connections[port] for port in domain_ports}
        for port, (value, direction) in component_ports(shared).items():
            ports[("i_" if direction is PortDirection.Input else "o_") + port] = value
        return Instance(name, **ports)

    def convert(self, component: wiring.Component, name: str) -> str:
        """RTLIL text of `component` as module `name`; shared components in it are collected in `texts`."""
        return rtlil.convert(component, name, platform=self, ports=component_ports(component), emit_src=False)

    def _emit(self, shared: Shared) -> tuple[str, tuple[str, ...]]:
        name = self._unique(module_name(shared.cls, shared.params))
        text = self.convert(shared.component, name)
        own = component_ports(shared)
        text, used = _prune_domain_ports(text, [port for port in _DOMAIN_PORTS if port not in own])
        self.texts.append(text)
        return name, used

    def _unique(self, name: str) -> str:
        candidate, number = name, 2
        while candidate.lower() in self._taken:
            candidate, number = f"{name}_{number}", number + 1
        self._taken.add(candidate.lower())
        return candidate


def _prune_domain_ports(text: str, names: list[str]) -> tuple[str, tuple[str, ...]]:
    """Drop clock and reset ports that the first module of an RTLIL text does not use; return those it uses."""
    end = text.index("\nend\n")
    top, rest, used = text[:end], text[end:], []
    for name in names:
        declaration = re.search(rf"^  wire width 1 input \d+  ?\\{name}\n", top, re.M)
        if declaration is None:
            continue
        if len(re.findall(rf"\\{name}(?= |$)", top, re.M)) > 1:
            used.append(name)
        else:
            top = top[: declaration.start()] + top[declaration.end() :]
    return top + rest, tuple(used)
