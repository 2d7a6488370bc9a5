"""PyTorch modules -> graphs: the forms in which operators arrive, and the sentence about what has no lowering."""

import numpy as np
import pytest
import torch
from torch import nn

from hwgen.arch import UserError
from scheduler.capture import capture
from scheduler.ir import Bias, Graph, Linear, Relu, Reshape, Tensor, verify

X = torch.ones(2, 4)


class Lambda(nn.Module):
    """A module made of a function of itself and its input, with a few parameters."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.fc = nn.Linear(4, 4)
        self.square = nn.Parameter(torch.arange(16.0).reshape(4, 4))
        self.tall = nn.Parameter(torch.arange(12.0).reshape(4, 3))
        self.row = nn.Parameter(torch.arange(4.0))

    def forward(self, x):
        return self.function(self, x)


def evaluate(graph: Graph, inputs: dict) -> dict:
    """What a graph computes, in float64."""
    values = {name: np.asarray(value, dtype=np.float64) for name, value in inputs.items()}
    for item in graph.operators:
        shape = graph.tensors[item.output].shape
        if isinstance(item, Linear):
            values[item.output] = values[item.input] @ graph.constants[item.weight]
        elif isinstance(item, Bias):
            values[item.output] = values[item.input] + graph.constants[item.bias]
        elif isinstance(item, Relu):
            values[item.output] = np.maximum(values[item.input], 0)
        elif isinstance(item, Reshape):
            values[item.output] = values[item.input].reshape(shape)
        else:
            values[item.output] = values[item.left] + values[item.right]
        assert values[item.output].shape == shape
    return {label: values[name] for label, name in graph.outputs.items()}


FORMS = {
    "linear": lambda m, x: m.fc(x),
    "mm": lambda m, x: torch.mm(x, m.tall),
    "matmul of three dimensions": lambda m, x: x.reshape(1, 2, 4) @ m.tall,
    "transposed parameter": lambda m, x: x @ m.tall.t().T,
    "permuted parameter": lambda m, x: x @ m.square.permute(1, 0),
    "twice transposed": lambda m, x: x @ m.square.transpose(0, 1) + x @ m.square,
    "addmm": lambda m, x: torch.addmm(m.row, x, m.square),
    "functional linear": lambda m, x: nn.functional.linear(x, m.square, m.row),
    "bias as addition": lambda m, x: m.row + torch.relu(x),
    "residual": lambda m, x: torch.relu(m.fc(x)) + x,
    "in place": lambda m, x: m.fc(x).relu_().add_(x),
    "views": lambda m, x: m.fc(x).view(8).unsqueeze(0).squeeze().reshape(4, 2).flatten().unflatten(0, (2, 4)),
    "no operation": lambda m, x: nn.functional.dropout(m.fc(x), 0.5, False).contiguous().detach().clone(),
    "literal": lambda m, x: m.fc(x) + torch.tensor([1.0, 2.0, 3.0, 4.0]),
    "one dimension": lambda m, x: m.fc(x[0]) if x.dim() == 3 else m.fc(x),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_computes_what_pytorch_does(form):
    torch.manual_seed(5)
    module, x = Lambda(FORMS[form]).eval(), torch.randn(2, 4)
    graph = capture(module, (x,))
    with torch.no_grad():
        np.testing.assert_allclose(evaluate(graph, {"x": x})["output"], module(x).numpy(), rtol=1e-4, atol=1e-5)


def test_input_of_one_dimension_is_one_row():
    graph = capture(nn.Linear(4, 3), (torch.ones(4),))
    assert graph.tensors["bias"].shape == (3,)
    assert graph.tensors["bias"].rows == 1


def test_half_precision_parameters_are_exact():
    module = nn.Linear(4, 4).to(torch.bfloat16)
    graph = capture(module, (X.to(torch.bfloat16),))
    np.testing.assert_array_equal(graph.constants["weight"], module.weight.detach().to(torch.float32).numpy().T)


def test_several_outputs_are_numbered():
    graph = capture(Lambda(lambda m, x: (m.fc(x), torch.relu(x))), (X,))
    assert list(graph.outputs) == ["output0", "output1"]


def test_the_mode_of_every_module_is_left_as_it_was():
    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.ReLU()).train()
    module[2].eval()
    capture(module, (X,))
    assert [part.training for part in module.modules()] == [True, True, True, False]


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(4, 4), nn.GELU())

    def forward(self, x):
        y = self.block(x)
        z = y @ y.T
        return torch.relu(z).softmax(-1)


def test_all_operators_without_lowering_are_named_with_place_and_line():
    """The product between them is not blamed: it only reads what the first one fails to give."""
    first = Nested.forward.__code__.co_firstlineno
    with pytest.raises(UserError) as caught:
        capture(Nested(), (X,))
    assert str(caught.value) == (
        "the model needs 2 operators that cannot be lowered: "
        f"aten.gelu.default in block.1 (test_capture.py:{first + 1}), "
        f"aten.softmax.int (test_capture.py:{first + 3})"
    )


class Normalised(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(4, 4), nn.BatchNorm1d(4))


def test_integer_buffers_that_nobody_reads_do_not_hide_the_operator():
    with pytest.raises(UserError, match=r"aten\._native_batch_norm_legit_no_training\.default in 1 \("):
        capture(Normalised(), (X,))


REFUSED = {
    "scaled addition": (lambda m, x: torch.add(x, x, alpha=2), r"aten\.add\.Tensor \(.*; alpha must be 1\)"),
    "number": (lambda m, x: x + 1, r"aten\.add\.Tensor \(.*; its operand other is not a tensor\)"),
    "broadcast": (lambda m, x: m.fc(x) + x[:1], r"2 operators|aten\.slice|aten\.add"),
    "broadcast of an input": (lambda m, x: m.row.reshape(4, 1) + m.row + torch.relu(x[0]), r"adds two constants"),
    "product of activations": (lambda m, x: x @ m.fc(x).reshape(4, 2), r"its operand other is not a parameter"),
    "transposed activation": (lambda m, x: m.fc(x).reshape(4, 2).t(), r"only a parameter with two dimensions"),
    "weighted addmm": (lambda m, x: torch.addmm(m.row, x, m.square, alpha=2), r"alpha and beta must be 1"),
    "full bias": (lambda m, x: torch.addmm(m.square[:2], x, m.square), r"aten\.slice"),
}


@pytest.mark.parametrize("form", REFUSED)
def test_what_cannot_be_lowered_is_refused_with_the_reason(form):
    function, message = REFUSED[form]
    with pytest.raises(UserError, match=message):
        capture(Lambda(function), (X,))


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x):
        self.count += 1
        return torch.relu(x)


class Deciding(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("module", "inputs", "message"),
    [
        ("relu", (X,), r"^a model must be a torch\.nn\.Module, not str$"),
        (nn.ReLU(), X, r"^example inputs must be a tuple with at least one tensor$"),
        (nn.ReLU(), (), r"^example inputs must be a tuple with at least one tensor$"),
        (
            nn.ReLU(),
            (X.long(),),
            r"^example input 0 must be a floating-point tensor of at most 32 bits, not torch\.int64$",
        ),
        (nn.ReLU(), (torch.ones(0, 4),), r"^example input 0 has shape \[0, 4\]: every dimension must be at least 1$"),
        (nn.Linear(5, 5), (X,), r"^Linear cannot be exported: "),
        (nn.Linear(4, 4).double(), (X,), r"^parameter weight is torch\.float64, allowed are torch\.float32, "),
        (Deciding(), (X,), r"^Deciding cannot be exported: "),
        (Counting(), (X,), r"^the model changes count as it runs, which has no lowering$"),
    ],
)
def test_bad_models_give_one_sentence(module, inputs, message, capfd):
    with pytest.raises(UserError, match=message) as caught:
        capture(module, inputs)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


GOOD = {"x": Tensor("x", (2, 4)), "y": Tensor("y", (2, 4))}


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (Graph(("x",), {"o": "y"}, GOOD, {}, ()), r"must have outputs and compute them all, missing: \['y'\]"),
        (Graph(("x",), {}, GOOD, {}, ()), r"must have outputs"),
        (Graph(("x",), {"o": "y"}, GOOD, {}, (Relu("y", "z"),)), r"not from \['z'\]"),
        (Graph(("x",), {"o": "y"}, GOOD, {}, (Relu("y", "x"), Relu("y", "x"))), r"must define a new tensor"),
        (Graph(("x",), {"o": "y"}, GOOD, {"w": np.ones((3, 4))}, (Linear("y", "x", "w"),)), r"linear y does not fit"),
        (Graph(("x",), {"o": "y"}, GOOD, {}, (Bias("y", "x", "b"),)), r"bias y does not fit its operands"),
        (Graph(("x",), {"o": "x"}, {"x": Tensor("x", (0, 4))}, {}, ()), r"every dimension must be at least 1"),
    ],
)
def test_a_graph_that_makes_no_sense_is_refused(graph, message):
    with pytest.raises(UserError, match=message):
        verify(graph)
