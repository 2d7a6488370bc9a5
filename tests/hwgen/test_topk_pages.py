# amaranth: UnusedElaboratable=no
"""Docstrings of the top-k components list their members; sizes are checked; keys of FP32 values rank as torch does."""

import re

import numpy as np
import pytest
import torch
from amaranth.hdl import Module, Signal
from amaranth.sim import Simulator

from hwgen.emit import LINT_WAIVERS, emit_verilog
from hwgen.pruning.count import DigitCounter
from hwgen.pruning.eliminate import ZeroEliminator
from hwgen.pruning.keep import KeepFilter
from hwgen.pruning.keys import fp32_key
from hwgen.pruning.quick_select import QuickSelect
from hwgen.pruning.radix_select import RadixSelect
from hwgen.pruning.selector import Selector
from hwgen.pruning.topk import METHODS, TopK, TopKMask
from hwgen.pruning.words import TopKSizes
from models.topk import fp32_scores
from sim.verilator import verilate

SIZES = TopKSizes(width=4, bits=12, max_length=64)
COMPONENTS = [
    DigitCounter(width=4, digit=4, tail=8, count_bits=7),
    KeepFilter(sizes=SIZES),
    Selector(sizes=SIZES),
    TopK(sizes=SIZES),
    TopKMask(sizes=SIZES),
    ZeroEliminator(shape=4, width=4),
]


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda item: type(item).__name__)
def test_members_section_equals_the_signature(component):
    text = type(component).__doc__.split("Members\n    -------\n")[1]
    named = {}
    for names, flow in re.findall(r"(?:^ {4}|, )(\w+(?:, \w+)*) : (In|Out)\(", text, flags=re.M):
        named |= dict.fromkeys(names.split(", "), flow)
    assert named == {name: member.flow.name for name, member in component.signature.members.items()}


@pytest.mark.parametrize("component", [RadixSelect(sizes=SIZES), QuickSelect(sizes=SIZES)])
def test_selectors_have_the_ports_of_a_selector(component):
    assert component.signature.members == Selector(sizes=SIZES).signature.members


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 3}, r"^top-k width must be one of 1, 2, 4, 8, 16, 32, not 3$"),
        ({"bits": 1}, r"^top-k bits must be between 2 and 64, not 1$"),
        ({"bits": 65}, r"^top-k bits must be between 2 and 64, not 65$"),
        ({"max_length": 15}, r"^top-k max_length must be between width \(16\) and 65536, not 15$"),
    ],
)
def test_sizes_are_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        TopKSizes(**changes)


def test_method_and_digit_are_checked():
    with pytest.raises(ValueError, match=r"^top-k method must be one of radix, quick, not 'sort'$"):
        TopK(sizes=SIZES, method="sort")
    with pytest.raises(ValueError, match=r"^RadixSelect digit must be between 1 and 8, not 9$"):
        TopK(sizes=SIZES, digit=9)


@pytest.mark.parametrize("width", [0, 3, 64])
def test_eliminator_width_is_checked(width):
    with pytest.raises(ValueError, match=rf"^ZeroEliminator width must be one of 1, 2, 4, 8, 16, 32, not {width}$"):
        ZeroEliminator(shape=4, width=width)


@pytest.mark.verilator
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("width", [1, 4])
def test_verilog_passes_lint(width, method, tmp_path):
    path = tmp_path / "topk.v"
    path.write_text(emit_verilog(TopK(sizes=TopKSizes(width=width, max_length=64), method=method), "topk"))
    waivers = [f"-Wno-{name}" for name in LINT_WAIVERS]
    command = ["--lint-only", "--quiet", "-Wall", *waivers, "--top-module", "topk", path]
    assert verilate(command, folder=tmp_path) == ""


def test_keys_of_fp32_values_equal_golden(seed):
    """Random bits, both zeros, infinities, subnormals, NaN of both signs."""
    rng = np.random.default_rng(seed)
    special = np.array([0, 1, 0x7F800000, 0x7F800001, 0x7FC00000, 0x7FFFFFFF, 0x007FFFFF, 0x3F800000], np.uint32)
    bits = np.concatenate([special, special | 0x80000000, rng.integers(0, 1 << 32, 500, np.uint32)])
    values = bits.view(np.float32)
    m, value, key = Module(), Signal(32), Signal(32)
    m.d.comb += key.eq(fp32_key(value))
    keys = []

    async def bench(ctx):
        for item in bits.tolist():
            ctx.set(value, item)
            keys.append(ctx.get(key))

    simulator = Simulator(m)
    simulator.add_testbench(bench)
    simulator.run()
    assert keys == fp32_scores(values).tolist()
    ranked = torch.from_numpy(values)[np.argsort(np.array(keys, np.uint32), kind="stable")]
    assert torch.equal(torch.sort(torch.from_numpy(values)).values.isnan(), ranked.isnan())
    finite = ranked[~ranked.isnan()]
    assert bool((finite[1:] >= finite[:-1]).all())
