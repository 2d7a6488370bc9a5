"""A small vision transformer: whole steps on the golden machine against the reference interpreter and PyTorch."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hwgen.arch.isa import Opcode, Operation, Target
from models.races import check_races
from models.tokens import check_tokens
from models.zoo_train import Vit
from scheduler.training.capture import capture_training
from scheduler.training.compile import compile_step
from scheduler.training.graph.ir import Kind
from scheduler.training.graph.operators import GeluGrad
from scheduler.training.graph.reference import Reference
from scheduler.training.kernels.banks import STATIC_BANKS
from scheduler.training.lower import TrainingOptions
from scheduler.training.schedule.fuse import PRODUCTS, groups, main_result
from sim.training.train import GoldenTrainer, train
from tests.scheduler.training.machine_support import arch8

BATCH, SCALE = 8, 256.0


class Case:
    """Two layers of two heads, 16 channels, 5 tokens an image; 4 batches. With 8 banks kernels have their own; 1024
    entries hold one curve.
    """

    def __init__(self, banks, entries):
        pads = dataclasses.replace(arch8().scratchpads, acc_depth=1024 * banks, acc_banks=banks)
        vector = dataclasses.replace(arch8().vector, curve_entries=entries)
        self.arch = dataclasses.replace(arch8(), scratchpads=pads, vector=vector)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.module = Vit(side=8, patch=4, width=16, layers=2, hidden=32, heads=2)
            self.x = torch.randn(4, BATCH, 3, 8, 8)
            self.y = torch.randint(0, 10, (4, BATCH))
        self.graph = self.capture(self.module)
        self.program = compile_step(self.graph, self.arch, TrainingOptions(loss_scale=SCALE))

    def optimizer(self, module):
        return torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)

    def capture(self, module):
        return capture_training(module, "cross_entropy", (self.x[0],), self.y[0], self.optimizer(module))

    def batch(self, number):
        names, given = self.graph.of_kind(Kind.INPUT, Kind.LABEL), (self.x[number], self.y[number])
        layouts = self.graph.layouts
        return {
            name: layouts[name].from_torch(value.numpy()).astype(np.float32)
            for name, value in zip(names, given, strict=True)
        }


@pytest.fixture(scope="module", params=[(4, 0), (8, 1024), (8, 4096)], ids=lambda param: f"{param[0]}-{param[1]}")
def case(request):
    return Case(*request.param)


def test_every_tensor_of_a_step(case):
    reference = Reference(case.graph)
    names = case.graph.of_kind(Kind.INPUT, Kind.LABEL)
    seen = reference.step(dict(zip(names, (case.x[0].double().numpy(), case.y[0].numpy()), strict=True)))
    trainer = GoldenTrainer(case.program)
    trainer.step(case.batch(0), {})
    scaled = {name for item in case.graph.phases()[1] for name in item.names("result")} | {"loss.logits_grad"}
    compared = 0
    for name in case.program.places.features:
        if name in seen:
            found = case.program.read_feature(trainer.memory, name) / (SCALE if name in scaled else 1)
            assert near(found, seen[name]) < 4e-3, name
            compared += 1
    for name, found in case.program.read_kept(trainer.memory).items():
        assert near(found, reference.kept[name].reshape(found.shape)) < 4e-3, name
    assert compared > 70


def near(found, wanted):
    """Largest difference over the largest value."""
    return np.abs(found - wanted).max() / max(np.abs(wanted).max(), 1e-30)


def test_three_steps_against_pytorch(case):
    module = copy.deepcopy(case.module)
    optimizer, wanted = case.optimizer(module), []
    for x, y in zip(case.x[:3], case.y[:3]):
        optimizer.zero_grad()
        loss = F.cross_entropy(module(x), y)
        loss.backward()
        optimizer.step()
        wanted.append(loss.item())
    golden = GoldenTrainer(case.program)
    found = [result.loss for result in train(case.program, [(case.batch(n), {}) for n in range(3)], golden=golden)]
    np.testing.assert_allclose(found, wanted, rtol=5e-4)


def test_tokens_order_what_touches_the_same_words(case):
    program = case.program.step.encode()
    assert check_tokens(program, case.arch) is None
    assert check_races(program, case.arch) is None


def test_kinds_of_kernels_keep_apart_if_there_are_enough_banks(case):
    heads, commands = case.program.places.headings, case.program.places.em.recorder.commands
    banks = {True: set(), False: set()}
    for (start, name), (end, _) in zip(heads, [*heads[1:], (len(commands), "")], strict=True):
        for item in commands[start:end]:
            if item.opcode == Opcode.VECTOR:
                banks[name in products(case.graph)].add(item.d_addr // case.program.places.em.bank_words)
    working = case.arch.scratchpads.acc_banks - STATIC_BANKS
    shared = {bank for bank in banks[True] & banks[False] if bank < working}
    assert len(shared) == (0 if case.arch.scratchpads.acc_banks == 8 else working)


def products(graph):
    """Results of products."""
    return {main_result(item) for item in graph.operators if isinstance(item, PRODUCTS)} | {"x.unrolled"}


def test_slow_functions_wait_for_no_product(case):
    mains = [type(group.main) for group in groups(case.graph, apart=True)]
    assert mains.count(GeluGrad) == 2
    assert GeluGrad not in [type(group.main) for group in groups(case.graph)]
    curved = groups(case.graph, apart=True, curves=("gelu_slope",))
    assert GeluGrad not in [type(group.main) for group in curved]


def test_curves_that_have_room_are_used_and_the_others_named(case):
    """A curve is loaded once for a step."""
    entries, commands = case.arch.vector.curve_entries, case.program.step.commands
    loads = sum(item.opcode is Opcode.LOAD and item.target == Target.CURVE for item in commands)
    assert loads == min(3, entries // 1024)
    found = {item.y_addr for item in commands if item.opcode is Opcode.VECTOR and item.operation == Operation.CURVE}
    assert found == {1024 * number for number in range(loads)}
    lines = [line for line in case.program.listing().splitlines() if line.startswith("; curves: ")]
    assert len(lines) == (entries > 0)
    assert all(line.count("no room") == 3 - loads for line in lines)
