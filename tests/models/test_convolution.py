"""Convolutions and their gradients as programs: bit for bit in the defined order, and against PyTorch in float64.

The instruction set is enough for training convolutional layers: forward pass, gradient of the input (one convolution
for each phase of the stride) and gradient of the weights, with strides of 1 and 2, dense and N:M.
"""

import numpy as np
import pytest
import torch

from models.formats import decode, fp32_values
from models.matmul import chain
from tests.models.convolution_support import TAPS, Window, convolve, pruning, weight_gradient
from tests.models.support import SEED, arch, assert_bits, normal_operands

ARCHES = {"tiny": arch("tiny"), "tiny2": arch("tiny2"), "four lanes": arch("tiny", lanes=4), "sat16": arch("sat16")}
SIZE = 6
"""Pixels of an image along either side, without its border."""


class Layer:
    """A 3 x 3 convolution with random operands: inputs, weights and the gradient of the outputs."""

    def __init__(self, chosen, stride: int) -> None:
        rng = np.random.default_rng([SEED, stride])
        cols, lanes = chosen.array.cols, chosen.array.lanes
        self.arch, self.stride = chosen, stride
        self.count = chosen.array.rows - 1
        self.inputs, self.outputs = 2 * cols - 3, 2 * cols - 1
        self.out = (SIZE - 1) // stride + 1
        self.x = normal_operands(rng, (self.count, SIZE, SIZE, self.inputs), "fp16")
        self.w = normal_operands(rng, (TAPS, TAPS, self.inputs, self.outputs), "fp16")
        self.dy = normal_operands(rng, (self.count, self.out, self.out, self.outputs), "fp16")
        # Whole groups of lanes in a row of the gradient, so that no group lies across two rows.
        pitch = -(-(self.out + 2) // lanes) * lanes
        self.padded_dy = bordered(self.dy, pitch, 2 * cols)
        self.padded_x = bordered(self.x, max(SIZE + 2, pitch), 2 * cols)
        self.padded_w = np.zeros((TAPS, TAPS, 2 * cols, 2 * cols), np.uint16)
        self.padded_w[:, :, : self.inputs, : self.outputs] = self.w

    def in_torch(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Output, gradient of the input `[N, H, W, C]` and of the weights `[3, 3, Ci, Co]`, in float64."""
        x, w, dy = (torch.tensor(decode(bits, "fp16").astype(np.float64)) for bits in (self.x, self.w, self.dy))
        x.requires_grad_()
        w.requires_grad_()
        y = torch.nn.functional.conv2d(x.permute(0, 3, 1, 2), w.permute(3, 2, 0, 1), stride=self.stride, padding=1)
        y.backward(dy.permute(0, 3, 1, 2))
        return y.detach().permute(0, 2, 3, 1).numpy(), x.grad.numpy(), w.grad.numpy()


def bordered(image: np.ndarray, pitch: int, channels: int) -> np.ndarray:
    """An image with a border of zeros, in rows of `pitch` pixels of `channels` values."""
    cols, depth = image.shape[2:]
    return np.pad(image, [(0, 0), (1, 1), (1, pitch - cols - 1), (0, channels - depth)])


def patches(image: np.ndarray, window: Window, shape) -> np.ndarray:
    """The values under each window, `[N * rows * cols, height * width * channels]`."""
    found = []
    for n, y, x in np.ndindex(len(image), *shape):
        top, left = window.top + y * window.stride, window.left + x * window.stride
        found.append(image[n, top : top + window.height, left : left + window.width].ravel())
    return np.array(found)


def check_convolution(chosen, image, weights, window, shape, ratio) -> np.ndarray:
    """Run a convolution and compare it with the sums in the defined order; its values `[N, *shape, S]`."""
    mask = True if ratio is None else pruning(weights, chosen, ratio)
    expected = chain(patches(image, window, shape), np.where(mask, weights, np.uint16(0)), "fp16")
    actual = convolve(chosen, image, weights, window, shape, ratio)
    assert_bits(actual, expected.reshape(actual.shape), f"{window} {ratio}")
    return fp32_values(actual)


def assert_close(actual: np.ndarray, expected: np.ndarray) -> None:
    """Within the error of FP32 sums of some hundreds of products."""
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= 2e-6 * np.abs(expected).max()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", ARCHES)
def test_forward(name, stride):
    layer = Layer(ARCHES[name], stride)
    window, shape = Window(0, 0, TAPS, TAPS, stride), (layer.out, layer.out)
    weights = layer.padded_w.reshape(-1, layer.padded_w.shape[3])
    for ratio in (None, (2, 4), (2, 8)):
        actual = check_convolution(layer.arch, layer.padded_x, weights, window, shape, ratio)
        if ratio is None:
            assert_close(actual[..., : layer.outputs], layer.in_torch()[0])
            assert not actual[..., layer.outputs :].any()


@pytest.mark.parametrize("ratio", [None, (2, 4)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", ARCHES)
def test_input_gradient(name, stride, ratio):
    layer = Layer(ARCHES[name], stride)
    gradient = np.zeros((layer.count, SIZE, SIZE, layer.padded_w.shape[2]), np.float32)
    for phase in np.ndindex(stride, stride):
        # Kernel rows that reach input rows of this phase, from the last: they meet output rows from `start` on.
        taps = [[k for k in (2, 1, 0) if (p + 1 - k) % stride == 0] for p in phase]
        start = [(p + 1 - k[0]) // stride + 1 for p, k in zip(phase, taps)]
        window = Window(*start, len(taps[0]), len(taps[1]), 1)
        weights = layer.padded_w[taps[0]][:, taps[1]].transpose(0, 1, 3, 2).reshape(-1, layer.padded_w.shape[2])
        shape = (SIZE // stride, SIZE // stride)
        part = check_convolution(layer.arch, layer.padded_dy, np.ascontiguousarray(weights), window, shape, ratio)
        gradient[:, phase[0] :: stride, phase[1] :: stride] = part
    if ratio is None:
        assert_close(gradient[..., : layer.inputs], layer.in_torch()[1])


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", ARCHES)
def test_weight_gradient(name, stride):
    layer = Layer(ARCHES[name], stride)
    shape = (layer.out, layer.out)
    actual = weight_gradient(layer.arch, layer.padded_x, layer.padded_dy, shape, stride)
    columns = patches(layer.padded_x, Window(0, 0, TAPS, TAPS, stride), shape)
    rows = np.pad(layer.dy.reshape(-1, layer.outputs), [(0, 0), (0, len(actual) - layer.outputs)]).T
    assert_bits(actual, chain(rows, columns, "fp16"), f"{name} {stride}")
    values = fp32_values(actual).reshape(-1, TAPS, TAPS, layer.padded_x.shape[3]).transpose(1, 2, 3, 0)
    assert_close(values[:, :, : layer.inputs, : layer.outputs], layer.in_torch()[2])
