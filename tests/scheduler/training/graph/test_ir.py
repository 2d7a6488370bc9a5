"""Training graphs: what `verify` refuses, and the text form."""

import dataclasses

import numpy as np
import pytest

from hwgen.arch import UserError
from scheduler.training.graph.base import Operator
from scheduler.training.graph.ir import Kind, Tensor, TrainingGraph, stage, verify
from scheduler.training.graph.moves import Broadcast, Concat, Pad, Permute, Reshape, Slice
from scheduler.training.graph.operators import (
    AvgPool,
    BatchNormGrad,
    Bias,
    BiasGrad,
    Conv,
    ConvInputGrad,
    ConvWeightGrad,
    CrossEntropy,
    LayerNorm,
    MatMul,
    MaxPoolGrad,
    Relu,
)
from scheduler.training.graph.reference import RULES as MEANINGS
from scheduler.training.graph.shapes import RULES, fits
from scheduler.training.graph.updates import Adam, Sgd
from scheduler.training.products.unroll import Unroll

POINT = {"kernel": (1, 1), "stride": (1, 1), "padding": (0, 0), "groups": 1}
SHAPES = {
    "x": ((2, 1, 1, 4), Kind.INPUT),
    "y": ((2, 1, 1, 3), Kind.LABEL),
    "w": ((3, 1, 1, 4), Kind.PARAMETER),
    "b": ((1, 1, 1, 3), Kind.PARAMETER),
    "v": ((3, 1, 1, 4), Kind.STATE),
    "p": ((2, 1, 1, 3), Kind.ACTIVATION),
    "o": ((2, 1, 1, 3), Kind.ACTIVATION),
    "loss": ((1, 1, 1, 1), Kind.SCALAR),
    "do": ((2, 1, 1, 3), Kind.ACTIVATION),
    "dw": ((3, 1, 1, 4), Kind.GRADIENT),
}
OPERATORS = (
    Conv("p", "x", "w", **POINT),
    Bias("o", "p", "b"),
    CrossEntropy("loss", "do", "o", "y", 0.5),
    ConvWeightGrad("dw", "do", "x", "w", **POINT),
    Sgd("w", "dw", "v", "lr", "momentum", None, None, False),
)
VALUES = {name: np.ones(shape, np.float32) for name, (shape, kind) in SHAPES.items() if name in ("w", "b", "v")}


def graph(**changes) -> TrainingGraph:
    parts = {
        "tensors": {name: Tensor(name, shape, kind) for name, (shape, kind) in SHAPES.items()},
        "operators": OPERATORS,
        "outputs": {"loss": "loss", "output": "o"},
        "gradients": {"w": "dw"},
        "scalars": {"lr": 0.1, "momentum": 0.9},
        "layouts": {},
        "values": VALUES,
    }
    return TrainingGraph(**{**parts, **changes})


def replaced(index: int, *items: Operator) -> tuple[Operator, ...]:
    return (*OPERATORS[:index], *items, *OPERATORS[index + 1 :])


def with_shape(name: str, shape: tuple) -> dict:
    return {**graph().tensors, name: Tensor(name, shape, SHAPES[name][1])}


def test_the_listing_shows_everything():
    verify(graph())
    assert graph().listing() == "\n".join(
        [
            "input x 2x1x1x4",
            "label y 2x1x1x3",
            "parameter w 3x1x1x4",
            "parameter b 1x1x1x3",
            "state v 3x1x1x4",
            "hyper-parameter lr = 0.1",
            "hyper-parameter momentum = 0.9",
            "forward:",
            "  p 2x1x1x3 = Conv(x, w) kernel=1x1 stride=1x1 padding=0x0 groups=1",
            "  o 2x1x1x3 = Bias(p, b)",
            "  loss 1x1x1x1, do 2x1x1x3 = CrossEntropy(o, y) scale=0.5",
            "backward:",
            "  dw 3x1x1x4 = ConvWeightGrad(do, x) kernel=1x1 stride=1x1 padding=0x0 groups=1 weight=w",
            "update:",
            "  Sgd(w, dw, v, lr, momentum) nesterov=False",
            "output loss = loss",
            "output output = o",
        ]
    )


def test_stages():
    assert [stage(item) for item in OPERATORS] == ["FF", None, None, "WU", None]
    assert stage(ConvInputGrad("dx", "do", "w", **POINT)) == "BP"


WRONG = {
    "unknown operand": (
        {"operators": replaced(1, Bias("o", "q", "b"))},
        r"^Bias o reads q, which nothing before it defines$",
    ),
    "order": (
        {"operators": (OPERATORS[1], OPERATORS[0], *OPERATORS[2:])},
        r"^Bias o reads p, which nothing before it defines$",
    ),
    "unknown scalar": ({"scalars": {"lr": 0.1}}, r"^Sgd w, v reads momentum, which nothing before it defines$"),
    "defined twice": (
        {"operators": replaced(1, OPERATORS[1], OPERATORS[1])},
        r"^Bias o must define new tensors of the graph, not o$",
    ),
    "overwritten": (
        {
            "operators": (*OPERATORS, Relu("r", "w")),
            "tensors": {**graph().tensors, "r": Tensor("r", (3, 1, 1, 4), "x")},
        },
        r"^Relu r reads w after it was overwritten$",
    ),
    "overwrites an activation": (
        {"operators": replaced(4, Sgd("p", "o", None, "lr", None, None, None, False))},
        r"^Sgd p overwrites p, which is not kept from step to step$",
    ),
    "shape": (
        {"tensors": with_shape("p", (2, 1, 1, 4))},
        r"^operator does not fit its operands: p 2x1x1x4 = Conv\(x, w\)",
    ),
    "dimensions": ({"tensors": with_shape("x", (2, 4))}, r"^tensor x has shape \[2, 4\], not four dimensions"),
    "no loss": ({"outputs": {"output": "o"}}, r"^a training graph must compute a scalar loss .* missing: loss$"),
    "output": ({"outputs": {"loss": "loss", "output": "q"}}, r"missing: \['q'\]$"),
    "update": ({"gradients": {}}, r"^every trained parameter must have one update, with its gradient$"),
    "value without tensor": ({"values": {"x": VALUES["w"]}}, r"^x has values, but it is not kept from step to step$"),
    "value of another type": (
        {"values": {"w": VALUES["w"].astype(np.float64)}},
        r"^values of w are float64 \[3, 1, 1, 4\], they must be float32 and fit it$",
    ),
    "some values": ({"values": {"w": VALUES["w"]}}, r"^a training graph has values for all tensors that it keeps, or"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_graph_is_refused(case):
    changes, message = WRONG[case]
    with pytest.raises(UserError, match=message):
        verify(graph(**changes))


WINDOW = {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1)}
FITTING = [
    (Conv("o", "i", "w", groups=2, **WINDOW), {"o": (2, 4, 3, 6), "i": (2, 8, 6, 4), "w": (6, 3, 3, 2)}),
    (ConvInputGrad("o", "i", "w", groups=2, **WINDOW), {"i": (2, 4, 3, 6), "o": (2, 8, 6, 4), "w": (6, 3, 3, 2)}),
    (MatMul("o", "l", "r", 2, True, False), {"o": (3, 2, 6, 4), "l": (3, 1, 5, 12), "r": (3, 2, 5, 4)}),
    (MatMul("o", "l", "r", 2, False, True), {"o": (3, 1, 6, 8), "l": (3, 2, 6, 5), "r": (3, 1, 4, 10)}),
    (BiasGrad("o", "i"), {"o": (1, 1, 1, 5), "i": (2, 3, 4, 5)}),
    (
        BatchNormGrad(None, "g", None, "d", "i", "m", "s", None),
        {n: (1, 1, 1, 5) for n in "gms"} | {n: (2, 3, 4, 5) for n in "di"},
    ),
    (
        LayerNorm("o", "m", "s", "i", None, "b", 0.1),
        {"b": (1, 1, 1, 5)} | {n: (2, 3, 4, 1) for n in "ms"} | {n: (2, 3, 4, 5) for n in "oi"},
    ),
    (MaxPoolGrad("o", "d", "i", "y", **WINDOW), {n: (2, 8, 6, 4) for n in "oi"} | {n: (2, 4, 3, 4) for n in "dy"}),
    (AvgPool("o", "i", **WINDOW), {"i": (2, 8, 6, 4), "o": (2, 4, 3, 4)}),
    (Reshape("o", "i"), {"i": (2, 8, 6, 4), "o": (2, 1, 1, 192)}),
    (Permute("o", "i", (2, 24, 4), (1, 0, 2)), {"i": (2, 4, 6, 4), "o": (24, 1, 2, 4)}),
    (Broadcast("o", "i"), {"i": (2, 1, 6, 1), "o": (2, 8, 6, 4)}),
    (Slice("o", "i", 2, 3), {"i": (2, 1, 6, 4), "o": (2, 1, 3, 4)}),
    (Pad("o", "i", 3, 1), {"i": (2, 1, 6, 2), "o": (2, 1, 6, 4)}),
    (Concat("o", ("i", "j"), 1), {"i": (2, 1, 6, 4), "j": (2, 2, 6, 4), "o": (2, 3, 6, 4)}),
    (Adam("p", "g", "f", "s", "lr", "b", "b", "e", None, True), {n: (2, 3, 4, 5) for n in "pgfs"}),
]


@pytest.mark.parametrize(("item", "shapes"), FITTING, ids=lambda value: type(value).__name__)
def test_one_changed_dimension_does_not_fit(item, shapes):
    assert fits(item, shapes.__getitem__)
    for name, shape in shapes.items():
        for axis in range(4):
            wrong = {**shapes, name: (*shape[:axis], shape[axis] + 5, *shape[axis + 1 :])}
            grown = isinstance(item, Broadcast) and name == "o" and shapes["i"][axis] == 1
            whole = isinstance(item, Slice) and (name, axis) == ("i", item.axis)
            whole |= isinstance(item, Pad) and (name, axis) == ("o", item.axis)
            whole |= isinstance(item, BiasGrad) and name == "i" and axis < 3
            assert fits(item, wrong.__getitem__) == (grown or whole), f"{name} {wrong[name]}"


def test_every_operator_has_a_rule_and_a_meaning():
    def leaves(kind):
        return {leaf for child in kind.__subclasses__() for leaf in (leaves(child) or {child})}

    made_by_the_lowering = {Unroll}
    of_a_step = {item for item in leaves(Operator) if item.__module__.startswith("scheduler.training.")}
    assert set(RULES) == set(MEANINGS) == of_a_step - made_by_the_lowering


def test_names_by_role_and_renaming():
    item = Concat("o", ("i", "j"), 1)
    assert item.renamed({"i": "k", "o": "p"}) == Concat("p", ("k", "j"), 1)
    norm = BatchNormGrad("o", "g", "b", "d", "i", "m", "s", None)
    assert norm.reduced({"o", "d"}) == dataclasses.replace(norm, gamma_grad=None, beta_grad=None)
    assert OPERATORS[4].names("in place", "source") == ("w", "dw", "v")
