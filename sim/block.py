"""Cycle-by-cycle runs of one block: a Verilated module that takes and gives arrays, a row for each cycle."""

import ctypes
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from amaranth.lib import wiring

from hwgen.emit import emit_verilog
from hwgen.lib.shared import PortDirection, component_ports
from sim.verilate import build_library

_HARNESS = """
#include "V{top}.h"
#include "verilated.h"
#include <cstring>
struct Run {{ VerilatedContext context; V{top} top; Run() : top(&context) {{}} }};
extern "C" {{
void* block_new() {{ return new Run; }}
void block_free(void* run) {{ delete static_cast<Run*>(run); }}
void block_run(void* run, long cycles, const uint32_t* in, uint32_t* out) {{
    auto& top = static_cast<Run*>(run)->top;
    for (long i = 0; i < cycles; i++, in += {in_words}, out += {out_words}) {{
        {write}
        {low}top.eval();
        {read}
        {high}
    }}
}}
}}
"""


def _words(width: int) -> int:
    return (width + 31) // 32


class Block:
    """A Verilated module driven by arrays of 32-bit words.

    Row `i` of the outputs is what the ports show in the cycle in which row `i` of the inputs is applied, just before
    the rising clock edge; a block with a latency of n cycles answers row `i` in row `i + n`. State is kept between
    calls of `run`. A port takes a word for every 32 bits, low word first; ports follow in the order given.

    sources : as for `build_library`. inputs, outputs : width of every port. clock : name of the clock, None without.
    """

    def __init__(
        self,
        sources: Sequence[Path | str],
        *,
        top: str,
        inputs: Mapping[str, int],
        outputs: Mapping[str, int],
        clock: str | None = None,
        no_inline: Sequence[str] = (),
        options: Sequence[str] = (),
    ) -> None:
        self._in_words, self._out_words = (sum(map(_words, ports.values())) for ports in (inputs, outputs))
        harness = _HARNESS.format(
            top=top,
            in_words=self._in_words,
            out_words=self._out_words,
            write=" ".join(_copies(inputs, to_model=True)),
            read=" ".join(_copies(outputs, to_model=False)),
            low=f"top.{clock} = 0; " if clock else "",
            high=f"top.{clock} = 1; top.eval();" if clock else "",
        )
        self.path = build_library(sources, top=top, harness=harness, no_inline=no_inline, options=options)
        self._library = ctypes.CDLL(str(self.path))
        self._library.block_new.restype = ctypes.c_void_p
        self._library.block_free.argtypes = [ctypes.c_void_p]
        self._library.block_run.argtypes = [ctypes.c_void_p, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
        self._run = self._library.block_new()

    @classmethod
    def of(cls, component: wiring.Component, name: str) -> "Block":
        """The block of a component, with its ports in the order of its signature. Reset is never asserted."""
        text = emit_verilog(component, name)
        ports = component_ports(component)
        clock = "clk" if re.search(rf"^module {name}\(clk[,)]", text, re.M) and "clk" not in ports else None
        inputs = {port: len(value) for port, (value, direction) in ports.items() if direction is PortDirection.Input}
        outputs = {port: len(value) for port, (value, _) in ports.items() if port not in inputs}
        return cls([text], top=name, inputs=inputs, outputs=outputs, clock=clock)

    def run(self, inputs: np.ndarray) -> np.ndarray:
        """Apply uint32 `[cycles, input words]` and return uint32 `[cycles, output words]`."""
        inputs = np.ascontiguousarray(inputs, np.uint32)
        if inputs.ndim != 2 or inputs.shape[1] != self._in_words:
            raise ValueError(f"inputs must have shape [cycles, {self._in_words}], not {inputs.shape}")
        outputs = np.empty((len(inputs), self._out_words), np.uint32)
        self._library.block_run(self._run, len(inputs), inputs.ctypes.data, outputs.ctypes.data)
        return outputs

    def close(self) -> None:
        """Free the model; `run` must not be called afterwards."""
        run, self._run = self._run, None
        self._library.block_free(run)

    def __del__(self) -> None:
        if getattr(self, "_run", None):
            self.close()


def _copies(ports: Mapping[str, int], *, to_model: bool) -> list[str]:
    lines, offset = [], 0
    for name, width in ports.items():
        if width > 64:
            sides = (f"top.{name}.data()", f"in + {offset}") if to_model else (f"out + {offset}", f"top.{name}.data()")
            lines.append(f"memcpy({sides[0]}, {sides[1]}, {4 * _words(width)});")
        elif width > 32:
            lines.append(
                f"top.{name} = in[{offset}] | uint64_t(in[{offset + 1}]) << 32;"
                if to_model
                else f"out[{offset}] = uint32_t(top.{name}); out[{offset + 1}] = uint32_t(top.{name} >> 32);"
            )
        else:
            lines.append(f"top.{name} = in[{offset}];" if to_model else f"out[{offset}] = top.{name};")
        offset += _words(width)
    return lines
