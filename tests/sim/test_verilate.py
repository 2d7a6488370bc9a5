# amaranth: UnusedElaboratable=no
import ctypes
import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sim.block import Block
from sim.verilate import BuildError, build_library
from sim.verilator import prepare, version

pytestmark = pytest.mark.verilator

COUNTER = """module counter(input clk, input rst, input [7:0] step, output reg [31:0] count);
  initial count = 0;
  always @(posedge clk) count <= rst ? 32'd0 : count + {24'd0, step};
endmodule
"""
HARNESS = """#include "Vcounter.h"
#include "verilated.h"
extern "C" int count(int cycles) {
    VerilatedContext context;
    Vcounter top(&context);
    top.step = STEP;
    for (int i = 0; i < cycles; i++) {
        top.clk = 0;
        top.eval();
        top.clk = 1;
        top.eval();
    }
    return top.count;
}
"""
WAVE = """#include "Vcounter.h"
#include "verilated_fst_c.h"
extern "C" int record(const char* path, int cycles) {
    VerilatedContext context;
    context.traceEverOn(true);
    Vcounter top(&context);
    VerilatedFstC file;
    top.trace(&file, 99);
    file.open(path);
    for (int i = 0; i < 2 * cycles; i++) {
        top.step = 3;
        top.clk = i & 1;
        top.eval();
        file.dump(i);
    }
    file.close();
    return file.isOpen();
}
"""
CODECS = """#include "fst_codecs.h"
extern "C" int pack(const char* source, char* target, int size) {
    return LZ4_compress_default(source, target, size, LZ4_compressBound(size));
}
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """An empty cache of libraries for the tests of this file."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSELOOM_CACHE", str(folder))
        yield folder


def build(step=1, *, sources=(COUNTER,), **settings):
    """Path of the counter's library and the steps that were reported."""
    steps = []
    harness = HARNESS.replace("STEP", str(step))
    return build_library(list(sources), top="counter", harness=harness, progress=steps.append, **settings), steps


def leftovers(folder):
    return [path for path in folder.rglob(".*")] + [path for path in folder.rglob("tmp*")]


def test_library_runs_and_is_built_once(cache):
    path, steps = build()
    assert ctypes.CDLL(str(path)).count(5) == 5
    assert steps[0] == "Verilator"
    assert path.is_relative_to(cache)
    assert build() == (path, [])
    assert leftovers(cache) == []


def test_new_harness_keeps_the_compiled_model(cache):
    first, _ = build()
    path, steps = build(step=7)
    assert path != first
    assert steps == ["C++ harness"]
    assert ctypes.CDLL(str(path)).count(3) == 21


def test_every_input_is_part_of_the_key(cache, tmp_path):
    source = tmp_path / "counter.v"
    source.write_text(COUNTER)
    first, _ = build()
    assert build(sources=[source]) == (first, [])
    variants = [
        {},
        {"sources": [COUNTER.replace("step}", "step} + 32'd1")]},
        {"options": ["-DUNUSED"]},
        {"no_inline": ["counter"]},
    ]
    assert len({build(**variant)[0] for variant in variants}) == len(variants)


def test_processes_that_want_the_same_library_share_the_work(cache):
    script = (
        "from tests.sim.test_verilate import COUNTER, build;"
        "path, steps = build(9, sources=[COUNTER + '// shared']); print(path, 'Verilator' in steps)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", script]
    runs = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [run.communicate(timeout=120)[0].split() for run in runs]
    assert answers[0][0] == answers[1][0]
    assert sorted(answer[1] for answer in answers) == ["False", "True"]
    assert leftovers(cache) == []


def test_error_in_verilog_is_reported_and_leaves_nothing(cache):
    broken = COUNTER.replace("step}", "stop}")
    with pytest.raises(BuildError, match=r"(?s)\AVerilator failed:\n.*stop"):
        build(sources=[broken])
    assert leftovers(cache) == []


def test_error_in_harness_is_reported_and_can_be_repaired(cache):
    text = COUNTER + "// repaired"
    with pytest.raises(BuildError, match=r"(?s)failed:\n.*harness\.cpp.*mistake"):
        build(step="mistake", sources=[text])
    assert leftovers(cache) == []
    path, steps = build(step=2, sources=[text])
    assert steps == ["C++ harness"]
    assert ctypes.CDLL(str(path)).count(4) == 8


def test_missing_compiler_is_named(tmp_path):
    script = "from tests.sim.test_verilate import build; build()"
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "CXX": "no-such-compiler",
        "SPARSELOOM_CACHE": str(tmp_path),
    }
    run = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    assert "BuildError: the C++ compiler 'no-such-compiler' is not on the PATH: install g++ or set CXX" in run.stderr


UNIT = """module unit(input clk, input [7:0] i, output reg [7:0] o);
  reg [7:0] x;
  always @(posedge clk) begin
    x <= (i * 8'd37) ^ {o[3:0], x[7:4]};
    o <= x + (i >> 2);
  end
endmodule
"""


def chain(length):
    lines = [f"  unit u{n}(.clk(clk), .i(w[{8 * n}+:8]), .o(w[{8 * n + 8}+:8]));" for n in range(length)]
    width = 8 * length + 8
    head = f"module chain(input clk, input [7:0] i, output [7:0] o);\n  wire [{width - 1}:0] w;\n"
    return "\n".join([UNIT, head, f"  assign w[7:0] = i; assign o = w[{width - 1}-:8];", *lines, "endmodule\n"])


def test_instances_of_a_no_inline_module_share_one_function(cache, seed):
    ports = {"top": "chain", "inputs": {"i": 8}, "outputs": {"o": 8}, "clock": "clk"}
    flat = Block([chain(24)], **ports)
    shared = Block([chain(24)], no_inline=["unit"], **ports)
    words = np.random.default_rng(seed).integers(0, 256, (500, 1), dtype=np.uint32)
    assert (flat.run(words) == shared.run(words)).all()
    generated = "".join(path.read_text() for path in (shared.path.parent / "model").glob("Vchain_unit*.cpp"))
    assert generated.count("0x25U") == 1


WIDE = """module wide(
  input clk, input [99:0] a, input [39:0] b, input [2:0] c, output [99:0] x, output [39:0] y, output [2:0] z
);
  reg [2:0] state = 0;
  always @(posedge clk) state <= state + c;
  assign x = ~a;
  assign y = b + 40'd1;
  assign z = state;
endmodule
"""


def test_block_packs_ports_in_words_and_keeps_its_state(cache, seed):
    block = Block(
        [WIDE], top="wide", inputs={"a": 100, "b": 40, "c": 3}, outputs={"x": 100, "y": 40, "z": 3}, clock="clk"
    )
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 1 << 32, (40, 7), dtype=np.uint32)
    rows[:, 3] &= 0xF
    rows[:, 5] &= 0xFF
    rows[:, 6] &= 7
    got = np.concatenate([block.run(rows[:11]), block.run(rows[11:])])
    for before, row, out in zip(itertools.accumulate(rows[:, 6].tolist(), initial=0), rows.tolist(), got.tolist()):
        b = (row[4] | row[5] << 32) + 1 & (1 << 40) - 1
        assert out == [*(~word & 0xFFFF_FFFF for word in row[:3]), ~row[3] & 0xF, b & 0xFFFF_FFFF, b >> 32, before % 8]


def test_block_refuses_inputs_of_another_shape(cache):
    block = Block([UNIT], top="unit", inputs={"i": 8}, outputs={"o": 8}, clock="clk")
    with pytest.raises(ValueError, match=r"^inputs must have shape \[cycles, 1\], not \(3, 2\)$"):
        block.run(np.zeros((3, 2), np.uint32))


def unpack(data):
    """Reads an LZ4 block, as the format's description says."""
    out, at = bytearray(), 0

    def length(nibble):
        nonlocal at
        while nibble >= 15:
            nibble += data[at]
            at += 1
            if data[at - 1] != 255:
                break
        return nibble

    while True:
        token = data[at]
        at += 1
        count = length(token >> 4)
        out += data[at : at + count]
        at += count
        if at == len(data):
            return bytes(out)
        offset = int.from_bytes(data[at : at + 2], "little")
        at += 2
        for _ in range(length(token & 15) + 4):
            out.append(out[-offset])


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    folder = tmp_path_factory.mktemp("codecs")
    (folder / "codecs.cpp").write_text(CODECS)
    header = Path(__file__).parents[2] / "sim"
    command = [os.environ.get("CXX", "c++"), "-O1", "-shared", "-fPIC", f"-I{header}", "codecs.cpp", "-o", "codecs.so"]
    subprocess.run(command, cwd=folder, check=True, timeout=60)
    library = ctypes.CDLL(str(folder / "codecs.so"))

    def call(data):
        target = ctypes.create_string_buffer(len(data) + len(data) // 255 + 16)
        size = library.pack(data, target, len(data))
        return target.raw[:size]

    return call


@pytest.mark.parametrize("letters", [1, 2, 5, 256])
@pytest.mark.parametrize("size", [0, 1, 4, 12, 13, 14, 15, 19, 30, 270, 300, 4000, 70_000])
def test_packed_blocks_can_be_read(pack, seed, letters, size):
    data = np.random.default_rng(seed).integers(0, letters, size, dtype=np.uint8).tobytes()
    packed = pack(data)
    assert unpack(packed) == data
    if letters == 1 and size > 100:
        assert len(packed) < size // 10


def test_packing_does_not_reach_back_too_far(pack):
    data = b"abcdefgh" + bytes(70_000) + b"abcdefgh" + bytes(20)
    assert unpack(pack(data)) == data


def blocks(data):
    """Kind and contents of every block of an FST file."""
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at + 1 : at + 9], "big")
        yield data[at], data[at + 9 : at + 1 + size]
        at += 1 + size


def test_trace_writes_a_waveform(cache, tmp_path):
    path = build_library([COUNTER], top="counter", harness=WAVE, trace=True)
    assert ctypes.CDLL(str(path)).record(str(tmp_path / "wave.fst").encode(), 200) == 0
    found = dict(blocks((tmp_path / "wave.fst").read_bytes()))
    header, hierarchy = found[0], found[6]
    assert int.from_bytes(header[:8], "big") == 0
    assert int.from_bytes(header[8:16], "big") == 399
    names = unpack(hierarchy[8:])
    assert len(names) == int.from_bytes(hierarchy[:8], "big")
    assert all(name in names for name in (b"counter", b"clk", b"step", b"count"))


BENCH = """import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles


@cocotb.test()
async def counts(dut):
    Clock(dut.clk, 10, "ns").start()
    dut.rst.value, dut.step.value = 1, 3
    await ClockCycles(dut.clk, 3)
    dut.rst.value = 0
    await ClockCycles(dut.clk, 5)
    assert dut.count.value.to_unsigned() == 12
"""


def test_cocotb_finds_a_working_verilator(tmp_path, monkeypatch):
    pytest.importorskip("cocotb", reason="cocotb is not installed")
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    (tmp_path / "counter.v").write_text(COUNTER)
    (tmp_path / "bench.py").write_text(BENCH)
    (tmp_path / "run.py").write_text(
        "from cocotb_tools.runner import get_results, get_runner\n"
        "runner = get_runner('verilator')\n"
        "runner.build(sources=['counter.v'], hdl_toplevel='counter', build_dir='build')\n"
        "results = runner.test(hdl_toplevel='counter', test_module='bench', build_dir='build', test_dir='.')\n"
        "assert get_results(results) == (1, 0)\n"
    )
    environment = prepare(tmp_path / "tools")
    shown = subprocess.run(["verilator", "--version"], env=environment, capture_output=True, text=True, timeout=60)
    assert shown.stdout.strip() == version()
    run = subprocess.run(
        [sys.executable, "run.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
