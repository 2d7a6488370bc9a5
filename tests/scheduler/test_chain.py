"""Captured models on the golden machine: every result word equals an independent chain of layers in numpy."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from hwgen.arch import load
from models import zoo
from models.formats import fp32_bits
from scheduler.capture import capture
from scheduler.lower import compile_graph, lower
from tests.scheduler.support import captured, linear, options, relu, run_golden, store, variant, widen

PRESETS = ("tiny", "tiny2", "sat16")
MODES = [(pattern, flow) for pattern in ("dense", "2:8", "1:4", "2:16", "4:8") for flow in ("os", "ws")]
MODES.append(("3:5", "os"))  # weight stationary distributes powers of two only


def mlp_chain(module: zoo.Mlp, images: np.ndarray, operand: str, pattern: str) -> np.ndarray:
    h = store(images, operand)
    for layer in (module.fc1, module.fc2):
        h = store(relu(linear(h, layer, operand, pattern)), operand)
    return linear(h, module.fc3, operand, pattern)


@pytest.mark.parametrize(("pattern", "dataflow"), MODES)
@pytest.mark.parametrize("preset", PRESETS)
def test_mlp_equals_the_chain(preset, pattern, dataflow):
    arch, (module, inputs, graph) = load(preset), captured("mlp", batch=37, hidden=72)
    program = compile_graph(graph, arch, options(pattern, dataflow))
    result = run_golden(program, {"x": inputs[0]})["output"]
    expected = mlp_chain(module, inputs[0].numpy(), arch.array.operand, pattern)
    np.testing.assert_array_equal(result, fp32_bits(expected))


@pytest.mark.parametrize("preset", PRESETS)
def test_dense_mlp_is_close_to_pytorch(preset):
    module, inputs, graph = captured("mlp", batch=37, hidden=72)
    program = compile_graph(graph, load(preset))
    bits = run_golden(program, {"x": inputs[0]})["output"]
    with torch.no_grad():
        expected = module(*inputs).numpy()
    np.testing.assert_allclose(bits.view(np.float32), expected, atol=2e-3)


@pytest.mark.parametrize("dataflow", ["os", "ws"])
@pytest.mark.parametrize("pattern", ["dense", "2:8"])
@pytest.mark.parametrize("preset", PRESETS)
def test_residual_mlp_equals_the_chain(preset, pattern, dataflow):
    arch, (module, inputs, graph) = load(preset), captured("residual_mlp", batch=21, hidden=50)
    operand = arch.array.operand
    program = compile_graph(graph, arch, options(pattern, dataflow, output="operand"))
    h = store(relu(linear(store(inputs[0].numpy(), operand), module.stem, operand, pattern)), operand)
    inner = store(relu(linear(h, module.fc1, operand, pattern)), operand)
    joined = store(relu(linear(inner, module.fc2, operand, pattern) + widen(h, operand)), operand)
    expected = store(linear(joined, module.head, operand, pattern), operand)
    np.testing.assert_array_equal(run_golden(program, {"x": inputs[0]})["output"], expected)


SMALL = {
    "little act": {"scratchpads": {"act_depth": 16}},
    "little wgt": {"scratchpads": {"wgt_depth": 64}},
    "little acc": {"scratchpads": {"acc_depth": 64, "acc_banks": 8}},
    "little everything": {
        "scratchpads": {"act_depth": 16, "wgt_depth": 64, "acc_depth": 64, "acc_banks": 2},
        "control": {"token_bits": 2, "queue_depth": 2},
    },
    "bf16, wide": {"array": {"operand": "bf16", "rows": 8, "cols": 16, "lanes": 4}},
    "tall": {"array": {"rows": 32, "lanes": 2, "interleave_max": 4, "weight_buffer": 8}},
}


@pytest.mark.parametrize("name", SMALL)
def test_random_stacks_equal_the_chain_on_cramped_architectures(name, seed):
    """Odd sizes that split every dimension: rows, columns and the reduction."""
    arch, random = variant("tiny", **SMALL[name]), np.random.default_rng(seed)
    operand = arch.array.operand
    for case in range(5):
        sizes = random.integers(1, 90, size=random.integers(2, 5))
        rows, pattern = int(random.integers(1, 70)), str(random.choice(["dense", "2:8", "1:4", "2:2", "3:16"]))
        dataflow = str(random.choice(["auto", "os", "ws"]))
        print(name, case, sizes, rows, pattern, dataflow)
        torch.manual_seed(int(random.integers(1 << 30)))
        layers = [nn.Linear(int(k), int(s), bias=bool(random.integers(2))) for k, s in itertools.pairwise(sizes)]
        active = [bool(random.integers(2)) for _ in layers]
        modules = [part for layer, on in zip(layers, active) for part in (layer, nn.ReLU() if on else nn.Identity())]
        x = torch.randn(rows, int(sizes[0]))
        graph = capture(nn.Sequential(*modules), (x,))
        program = compile_graph(graph, arch, options(pattern, dataflow))
        h = store(x.numpy(), operand)
        for layer, on in zip(layers, active):
            values = linear(h, layer, operand, pattern)
            values = relu(values) if on else values
            h = store(values, operand)
        result = run_golden(program, {"input": x})["output"]
        np.testing.assert_array_equal(result, fp32_bits(values))


class Shapes(nn.Module):
    """Additions and ReLU that no product can take along, inputs of several shapes, reshapes at both ends and inside."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(12, 16)
        self.last = nn.Linear(8, 5)
        self.offset = nn.Parameter(torch.randn(16))

    def forward(self, image, other):
        x = self.fc(image.flatten(1))
        y = x + other
        z = torch.relu(x + x + self.offset)
        w = y + torch.relu(z)
        return self.last(w.reshape(-1, 8)).reshape(2, -1), w, torch.relu(other)


def test_elementwise_layers_and_reshapes():
    arch = load("tiny")
    torch.manual_seed(3)
    module, image, other = Shapes().eval(), torch.randn(6, 3, 4), torch.randn(6, 16)
    state = lower(capture(module, (image, other)), arch)
    result = run_golden(state.program, {"image": image, "other": other})

    def rounded(values):
        return widen(store(values, "fp16"), "fp16")

    x = rounded(linear(store(image.numpy().reshape(6, 12), "fp16"), module.fc, "fp16"))
    o = rounded(other.numpy())
    z = relu((x + x) + module.offset.detach().numpy())  # goes into the last addition unrounded
    y = rounded(x + o)
    w = rounded(y + z)
    head = linear(store(w.reshape(12, 8), "fp16"), module.last, "fp16").reshape(2, -1)
    np.testing.assert_array_equal(result["output0"], fp32_bits(head))
    np.testing.assert_array_equal(widen(result["output1"], "fp16"), w)
    np.testing.assert_array_equal(result["output2"], fp32_bits(relu(o)))


class LateOperand(nn.Module):
    """An addition whose only exclusive operand is made before the other one."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        y, z = torch.relu(self.fc1(x)), self.fc2(x)
        return y + z, z


def test_an_addition_waits_for_both_operands():
    torch.manual_seed(4)
    module, x = LateOperand().eval(), torch.randn(5, 8)
    result = run_golden(compile_graph(capture(module, (x,)), load("tiny")), {"x": x})
    bits = store(x.numpy(), "fp16")
    y, z = (
        store(values, "fp16") for values in (relu(linear(bits, module.fc1, "fp16")), linear(bits, module.fc2, "fp16"))
    )
    np.testing.assert_array_equal(result["output0"], fp32_bits(widen(y, "fp16") + widen(z, "fp16")))
    np.testing.assert_array_equal(result["output1"], z)


def test_several_readers_keep_a_tensor_in_memory():
    """The ReLU of the stem has two readers, so it is stored once and read by both."""
    state = lower(captured("residual_mlp", batch=21, hidden=50)[2], load("tiny"))
    assert [layer.output for layer in state.layers] == ["relu", "relu_1", "relu_2", "head.bias"]
    assert [str(step) for step in state.layers[2].steps] == ["+ fc2.bias", "+ relu relu"]
