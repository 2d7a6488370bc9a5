"""FF, BP and WU of convolutions on the golden machine against PyTorch in float64."""

import numpy as np
import pytest
import torch

from hwgen.arch.isa import Opcode, Target
from models.pattern import Pattern
from models.sparsity import nm_mask
from scheduler.hazards import Region
from scheduler.training.graph.ir import Kind, Tensor
from scheduler.training.products.gradient_plans import Kernel
from scheduler.training.products.gradients import WeightGradient
from scheduler.training.products.resident import Rings
from scheduler.training.products.weights import equal_steps, master_values, master_words, write_copies
from scheduler.training.products.windows import WindowProduct, forward_window, gradient_phases
from tests.scheduler.training.machine_support import TINY, Bench, arch8, operands

CASES = {
    # name: arch, batch, height, width, input channels, output channels, kernel, stride, padding, pattern
    "3x3": (TINY, 4, 5, 6, 4, 8, 3, 1, 1, None),
    "3x3 of two image blocks": (TINY, 8, 4, 4, 3, 5, 3, 1, 1, None),
    "1x1": (TINY, 4, 3, 5, 8, 4, 1, 1, 0, None),
    "linear": (TINY, 12, 1, 1, 20, 10, 1, 1, 0, None),
    "stride 2": (TINY, 4, 6, 6, 4, 8, 3, 2, 1, None),
    "stride 2, odd": (TINY, 4, 7, 5, 4, 8, 3, 2, 1, None),
    "1x1 stride 2": (TINY, 4, 6, 6, 8, 4, 1, 2, 0, None),
    "5x5 stride 3": (TINY, 4, 9, 8, 4, 4, 5, 3, 2, None),
    "2:8": (TINY, 4, 4, 4, 16, 32, 3, 1, 1, Pattern(2, 8)),
    "2:4": (TINY, 4, 6, 6, 8, 8, 3, 2, 1, Pattern(2, 4)),
    "1:8 linear": (arch8(), 8, 1, 1, 32, 64, 1, 1, 0, Pattern(1, 8)),
    "2:8 on 8x8": (arch8(), 8, 6, 6, 32, 16, 3, 1, 1, Pattern(2, 8)),
}


class Layer:
    """One convolution with everything around it."""

    def __init__(self, case, seed=1):
        self.arch, n, h, w, ci, co, k, stride, padding, self.pattern = case
        rng = np.random.default_rng(seed)
        self.bench = Bench(self.arch)
        self.shape = (co, k, k, ci)
        ho, wo = ((size + 2 * padding - k) // stride + 1 for size in (h, w))
        self.x, self.dy = operands(rng, n, h, w, ci), operands(rng, n, ho, wo, co)
        self.w = operands(rng, *self.shape)
        self.kernel = Kernel(size=(k, k), stride=(stride, stride), padding=(padding, padding))
        bench = self.bench
        self.fx, self.fdy = bench.feature("x", self.x), bench.feature("dy", self.dy)
        self.fy, self.fdx = bench.feature("y", shape=self.dy.shape), bench.feature("dx", shape=self.x.shape)
        self.weights = bench.memory.weights(
            Tensor("w", self.shape, Kind.PARAMETER),
            kernel=self.kernel,
            phases=tuple(gradient_phases(self.kernel.size, self.kernel.stride, self.kernel.padding, self.fx)),
            patterns=(self.pattern, self.pattern),
            states=(),
            limit=128,
        )
        self.rings = Rings(self.arch)
        self.master = self.weights.masters[0]
        bench.contents.append((self.master.address, master_words(self.weights, self.arch, self.w).tobytes()))

    def make_copies(self):
        for tile, (number, word) in self.weights.offsets(self.arch).items():
            self.bench.em.begin_chunk()
            block = self.bench.em.take(tile.rows, tile.words)
            row = 4 * self.arch.array.cols
            region = Region("dram", self.master.unit + number, self.master.unit + number + 1)
            self.bench.em.load_block(block, self.master.address + word * row, tile.words * row, region, wide=True)
            write_copies(self.bench.em, self.weights, block, tile)

    def masked(self, axis):
        return self.w * nm_mask(self.w, self.pattern.n, self.pattern.m, axis) if self.pattern else self.w

    def torch_grads(self, weight):
        """Output, input gradient and weight gradient in float64, channels last."""
        x = torch.tensor(self.x, dtype=torch.float64).permute(0, 3, 1, 2).requires_grad_()
        w = torch.tensor(weight, dtype=torch.float64).permute(0, 3, 1, 2).requires_grad_()
        y = torch.nn.functional.conv2d(x, w, stride=self.kernel.stride, padding=self.kernel.padding)
        y.backward(torch.tensor(self.dy, dtype=torch.float64).permute(0, 3, 1, 2))
        return [value.detach().permute(0, 2, 3, 1).numpy() for value in (y, x.grad, w.grad)]


@pytest.fixture(params=CASES, scope="module")
def layer(request):
    return Layer(CASES[request.param])


def close(found, wanted, bound=2e-3):
    error = np.abs(found - wanted).max() / np.abs(wanted).max()
    assert error < bound, f"largest error {error} of the largest value"


@pytest.mark.parametrize("scheduled", [False, True])
def test_forward_and_input_gradient(layer, scheduled):
    layer.bench.em.recorder.__init__()
    layer.make_copies()
    em, kernel = layer.bench.em, layer.kernel
    window = forward_window(kernel.size, kernel.stride, kernel.padding, layer.fy)
    WindowProduct(em, layer.rings, layer.fx, layer.fy, window).emit(layer.weights.forward)
    for phase, image in zip(layer.weights.phases, layer.weights.backward, strict=True):
        WindowProduct(em, layer.rings, layer.fdy, layer.fdx, phase.window).emit(image)
    machine = layer.bench.run(scheduled=scheduled)
    close(layer.bench.read(machine, layer.fy), layer.torch_grads(layer.masked(3))[0])
    close(layer.bench.read(machine, layer.fdx), layer.torch_grads(layer.masked(0))[1])


def test_weight_gradient(layer):
    em, arch = layer.bench.em, layer.arch
    em.recorder.__init__()
    offsets = layer.weights.offsets(arch)

    def keep(block, tile):
        number, word = offsets[tile]
        row = 4 * arch.array.cols
        region = Region("dram", layer.master.unit + number, layer.master.unit + number + 1)
        em.store(block, layer.master.address + word * row, tile.words * row, region, 0)

    WeightGradient(em, layer.rings, layer.fx, layer.fdy, layer.kernel).emit(layer.weights.plan, keep)
    machine = layer.bench.run(scheduled=True)
    count = layer.weights.channels * layer.weights.taps * layer.weights.inputs
    words = np.frombuffer(machine.memory.read(layer.master.address, 4 * count), np.float32).reshape(-1, arch.array.cols)
    close(master_values(layer.weights, arch, words, layer.shape), layer.torch_grads(layer.w)[2], 1e-5)


def test_master_round_trip():
    layer = Layer(CASES["3x3 of two image blocks"])
    words = master_words(layer.weights, layer.arch, layer.w)
    np.testing.assert_array_equal(master_values(layer.weights, layer.arch, words, layer.shape), layer.w)


@pytest.mark.parametrize(("name", "backward"), [("3x3", 1), ("2:8 on 8x8", 1), ("stride 2", 9)])
def test_a_tile_is_copied_with_few_instructions(name, backward):
    """One STORE for each copy, whose planes are kernel positions; with a stride, neighbours belong to other copies."""
    layer = Layer(CASES[name])
    layer.bench.em.recorder.__init__()
    layer.make_copies()
    tiles = layer.weights.tiles(layer.arch)
    taps = {tile.taps for tile in tiles}
    stores = [item for item in layer.bench.em.recorder.commands if item.opcode == Opcode.STORE]
    turned, others = ([item for item in stores if item.transpose == flag] for flag in (1, 0))
    assert (len(turned), len(others)) == (len(tiles), backward * len(tiles))
    assert {item.planes for item in turned} == taps != {1}
    if backward == 1:
        assert {item.planes for item in others} == taps
        assert all(item.plane_stride < 0 < forward.plane_stride for item, forward in zip(others, turned, strict=True))


def test_stretches_of_equal_steps():
    assert equal_steps({0: 90, 1: 80, 2: 70, 3: 75, 4: 80, 6: 90}) == [range(3), range(3, 5), range(6, 7)]
    assert equal_steps({4: 7}) == [range(4, 5)]
    assert equal_steps({}) == []


def test_small_maps_are_loaded_once():
    layer = Layer((TINY, 4, 4, 4, 16, 32, 3, 1, 1, None))
    WeightGradient(layer.bench.em, layer.rings, layer.fx, layer.fdy, layer.kernel).emit(
        layer.weights.plan, lambda block, tile: None
    )
    for target in (Target.WGT, Target.ACT_CHUNKS):
        loads = [item for item in layer.bench.em.recorder.commands if item.opcode == Opcode.LOAD and item.beats]
        places = [(item.dram_addr, item.rows) for item in loads if item.target == target]
        assert len(places) == len(set(places)) > len(layer.x)
    assert len(layer.weights.tiles(layer.arch)) > 4
