"""What the capture of a training step decides: layouts, dropout, shared weights, fake tensors; and what it refuses."""

from functools import reduce
from itertools import accumulate

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD

from hwgen.arch import UserError
from scheduler.training.capture import capture_training
from scheduler.training.convert.joint import fake_mode
from scheduler.training.graph.dropout import dropout_mask
from scheduler.training.graph.ir import Kind
from scheduler.training.graph.moves import Concat, Pad, Permute, Reshape
from scheduler.training.graph.operators import Conv, ConvInputGrad, ConvWeightGrad, CrossEntropy, DropoutMask, Mul
from scheduler.training.graph.reference import Reference
from tests.scheduler.training.support import capture, check_steps

X, Y = torch.ones(4, 6), torch.tensor([0, 1, 2, 0])
IMAGES = torch.ones(4, 2, 3, 5)


class Lambda(nn.Module):
    """A module made of a function of itself and its inputs, with a few layers."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.fc = nn.Linear(6, 3)
        self.row = nn.Parameter(torch.ones(3))

    def forward(self, *inputs):
        return self.function(self, *inputs)


def only(module, *names):
    """An optimizer of some parameters."""
    return SGD([dict(module.named_parameters())[name] for name in names], lr=0.1)


def of_type(graph, kind):
    return [item for item in graph.operators if isinstance(item, kind)]


def test_features_of_a_flattened_image_stay_where_they_are():
    module = nn.Sequential(nn.Conv2d(2, 4, 1), nn.Flatten(), nn.Linear(4 * 3 * 5, 3))
    graph = capture(module, (IMAGES,), (Y,))
    assert of_type(graph, Permute) == []
    weight = module[2].weight.detach().numpy()
    placed = weight.reshape(3, 4, 3, 5).transpose(0, 2, 3, 1).reshape(3, 1, 1, 60)
    assert np.array_equal(graph.values["2.weight"], placed)
    assert np.array_equal(graph.layouts["2.weight"].to_torch(placed), weight)


def test_weights_of_filters_are_channels_last():
    module = nn.Sequential(nn.Conv2d(2, 4, (3, 1)), nn.Flatten(), nn.Linear(4 * 5, 3))
    graph = capture(module, (IMAGES,), (Y,))
    assert np.array_equal(graph.values["0.weight"], module[0].weight.detach().numpy().transpose(0, 2, 3, 1))


def test_every_product_names_its_parameter_and_the_first_has_no_input_gradient():
    module = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    graph = capture(module, (X,), (Y,))
    assert [item.weight for item in of_type(graph, Conv)] == ["0.weight", "2.weight"]
    assert [item.weight for item in of_type(graph, ConvInputGrad)] == ["2.weight"]
    assert [item.weight for item in of_type(graph, ConvWeightGrad)] == ["2.weight", "0.weight"]
    assert graph.gradients["0.weight"] == "0.weight.grad"


@pytest.mark.parametrize(("sizes", "parts"), [((3, 5), 2), ((2, 4, 2), 3), ((3, 4), 0)])
def test_gradients_of_slices_are_put_together_if_they_fill_the_whole(sizes, parts):
    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.heads = nn.Linear(4, 8), nn.ModuleList(nn.Linear(size, 3) for size in sizes)

        def forward(self, x):
            x, ends = self.up(x), list(accumulate(sizes))
            results = [head(x[:, end - size : end]) for head, size, end in zip(self.heads, sizes, ends)]
            return reduce(torch.add, results)

    graph = capture(Cut(), (torch.randn(5, 4),), (torch.zeros(5, dtype=int),))
    assert len(of_type(graph, Pad)) == (0 if parts else len(sizes))
    assert [len(item.inputs) for item in of_type(graph, Concat)] == ([parts] if parts else [])


def test_the_module_is_left_as_it_was():
    module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(9, 3)).eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    capture(module, (IMAGES,), (Y,))
    assert not any(child.training for child in module.modules())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(value.grad is None for value in module.parameters())


def test_dropout_with_the_masks_of_the_interpreter(seed):
    torch.manual_seed(seed)

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.drop, self.fc = nn.Conv2d(2, 4, 3), nn.Dropout(0.4), nn.Linear(12, 3)

        def forward(self, x):
            return self.fc(self.drop(self.conv(x)).flatten(1))

    class Given(nn.Module):
        def __init__(self, mask):
            super().__init__()
            self.mask = mask

        def forward(self, x):
            return x * self.mask

    def replace(twin, seen):
        twin.drop = Given(torch.from_numpy(seen["drop.mask"].transpose(0, 3, 1, 2).copy()))

    batches = [((torch.randn(4, 2, 3, 5),), (torch.randint(3, (4,)),)) for _ in range(2)]
    graph = check_steps(Masked(), batches, replace_dropout=replace)
    assert len(of_type(graph, DropoutMask)) == 1
    assert len(of_type(graph, Mul)) == 2


def test_masks_keep_the_wanted_part_and_differ_by_seed_stream_and_step():
    shape, p = (10, 10, 10, 101), 0.3
    masks = [dropout_mask(shape, p, *key) for key in ((0, 0, 1), (1, 0, 1), (0, 1, 1), (0, 0, 2))]
    assert np.array_equal(masks[0], dropout_mask(shape, p, 0, 0, 1))
    for mask in masks:
        assert set(np.unique(mask)) == {np.float32(0), np.float32(1 / 0.7)}
        assert abs((mask == 0).mean() - p) < 0.01
    assert all((one != other).mean() > 0.3 for i, one in enumerate(masks) for other in masks[:i])


def test_dropout_that_drops_nothing_is_not_there():
    module = nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.0), nn.Linear(5, 3))
    assert of_type(capture(module, (X,), (Y,)), DropoutMask) == []


@pytest.mark.parametrize("form", ["one layer twice", "two names"])
def test_a_shared_weight_has_the_sum_of_its_gradients(form, seed):
    torch.manual_seed(seed)
    layer = nn.Linear(6, 6)
    other = layer
    if form == "two names":
        other = nn.Linear(6, 6)
        other.weight = layer.weight
    module = nn.Sequential(layer, nn.ReLU(), other, nn.Linear(6, 3))
    graph = check_steps(module, [((torch.randn(4, 6),), (Y,)) for _ in range(2)])
    assert "2.weight" not in graph.tensors
    assert len(of_type(graph, ConvWeightGrad)) == 3


def test_fake_modules_give_the_same_graph_without_values():
    def made():
        module = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3))
        return capture(module, (torch.zeros(4, 2, 3, 5),), (torch.zeros(4, dtype=torch.long),))

    with fake_mode():
        graph = made()
    assert graph.values == {}
    assert graph.listing() == made().listing()


def test_labels_are_one_hot_and_images_channels_last():
    graph = capture(nn.Sequential(nn.Flatten(), nn.Linear(30, 3)), (IMAGES,), (Y,))
    assert graph.of_kind(Kind.INPUT, Kind.LABEL) == ("input", "target")
    assert graph.layouts["target"].from_torch(Y.numpy()).reshape(4, 3).tolist() == [
        [1, 0, 0],
        [0, 1, 0],
        [0, 0, 1],
        [1, 0, 0],
    ]
    image = torch.randn(4, 2, 3, 5).numpy()
    assert np.array_equal(graph.layouts["input"].from_torch(image), image.transpose(0, 2, 3, 1))


def test_logits_of_tokens_lie_as_the_model_computes_them(seed):
    torch.manual_seed(seed)

    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Embedding(7, 6), nn.Linear(6, 3)

        def forward(self, tokens):
            return self.head(self.table(tokens)).view(-1, 3)

    batches = [((torch.randint(7, (2, 4)),), (torch.randint(3, (8,)),)) for _ in range(2)]
    graph = check_steps(Tagger(), batches)
    assert graph.tensors["target"].shape == (2, 1, 4, 3)
    assert of_type(graph, Reshape) == []


def test_a_loss_module_and_its_scale(seed):
    class Half(nn.Module):
        def forward(self, output, target):
            return F.cross_entropy(output, target, reduction="sum") * 0.5

    torch.manual_seed(seed)
    graph = check_steps(nn.Linear(6, 3), [((torch.randn(4, 6),), (Y,))] * 2, loss=Half())
    assert [item.scale for item in of_type(graph, CrossEntropy)] == [1.0]


def test_losses_that_are_added(seed):
    class Both(nn.Module):
        def forward(self, output, target, wanted):
            return F.cross_entropy(output, target) - F.mse_loss(wanted, output, reduction="sum") / 4

    torch.manual_seed(seed)
    batches = [((torch.randn(4, 6),), (Y, torch.randn(4, 3))) for _ in range(2)]
    check_steps(nn.Linear(6, 3), batches, loss=Both())


def test_a_loss_of_ignored_or_weighted_classes_is_refused():
    for loss, reason in (
        (nn.CrossEntropyLoss(ignore_index=0), "must not ignore a class"),
        (nn.CrossEntropyLoss(weight=torch.ones(3)), "must be the mean or sum over unweighted classes"),
    ):
        refused(lambda m, x: m.fc(x), rf"aten.nll_loss_forward.default in loss \(.*{reason}", loss=loss)


def test_labels_must_be_classes():
    graph = capture(nn.Linear(6, 3), (X,), (Y,))
    for wrong in (-100, -1, 3):
        with pytest.raises(UserError, match=rf"^labels and tokens must be in 0..2, not {wrong}$"):
            graph.layouts["target"].from_torch(np.array([0, wrong, 1, 2]))


def refused(function, message, inputs=(X,), targets=(Y,), loss="cross_entropy", names=("fc.weight", "fc.bias")):
    module = Lambda(function)
    with pytest.raises(UserError, match=message):
        capture_training(module, loss, inputs, targets, only(module, *names))


def test_all_operators_without_a_lowering_are_named():
    refused(
        lambda m, x: m.fc(torch.sin(x) + torch.cos(x)),
        r"^the training step needs 2 operators that cannot be lowered: aten.sin.default \(test_capture.py:\d+\), "
        r"aten.cos.default \(test_capture.py:\d+\)$",
    )


CASES = {
    "dilated": (
        lambda m, x: m.fc(F.conv2d(x.view(4, 1, 1, 6), m.row.view(1, 1, 1, 3), None, 1, (0, 2), (1, 2)).view(4, 6)),
        r"^the training step needs .*aten.convolution.default .*; transposed and dilated convolutions have no lowering",
    ),
    "mask": (
        lambda m, x: m.fc(F.scaled_dot_product_attention(*[x.view(1, 1, 4, 6)] * 3, attn_mask=x[:, :4])[0, 0]),
        r"^the training step needs .*; its mask is not a constant of the model that is the same for all",
    ),
    "parameter times tensor": (
        lambda m, x: m.fc(x) * m.row,
        r"^the training step needs .*aten.mul.Tensor \(.*; it multiplies by a parameter element by element\)",
    ),
    "product of activations": (
        lambda m, x: m.fc(x @ (x.t() @ x)),
        r"^the training step needs .*aten.mm.default \(.*; neither operand is a parameter, and it is not the gradient",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_has_no_lowering_is_refused_with_its_reason(case):
    refused(*CASES[case], names=("fc.weight",))


def test_a_loss_must_be_a_scalar():
    loss = nn.CrossEntropyLoss(reduction="none")
    refused(lambda m, x: m.fc(x), r"^the loss must be a scalar tensor .*, not a tensor of shape \[4\]$", loss=loss)


def test_a_parameter_that_the_loss_does_not_depend_on_is_refused():
    message = r"^the optimizer trains row, but the loss does not depend on it$"
    refused(lambda m, x: m.fc(x), message, names=("fc.weight", "row"))


def test_integer_inputs_are_tokens_or_nothing():
    tokens = torch.ones(4, 6, dtype=torch.long)
    reason = "it computes with the integers of inputs, which can only be tokens or labels"
    refused(lambda m, x: m.fc(x * 2.0), rf"^the training step needs .*{reason}", inputs=(tokens,))
    message = r"^input1 is an integer tensor that nothing uses as tokens or labels$"
    refused(lambda m, x, y: m.fc(x), message, inputs=(X, tokens))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("given", [X, X.half()], ids=["float32", "float16"])
def test_parameters_must_be_float32(dtype, given):
    module = nn.Sequential(nn.Linear(6, 3), nn.Linear(3, 3).to(dtype))
    message = rf"^parameter 1.weight is {dtype}: training keeps parameters in float32, allowed is torch.float32$"
    with pytest.raises(UserError, match=message):
        capture(module, (given,), (Y,))


def test_examples_must_be_tensors_with_values():
    message = r"^input inputs must be a tensor of real numbers .* not torch.float64$"
    refused(lambda m, x: m.fc(x), message, inputs=(X.double(),))
    refused(lambda m, x: m.fc(x), r"^label target has shape \[4\] on meta: ", targets=(Y.to("meta"),))
    refused(lambda m, x: m.fc(x), r"^example inputs must be a tuple with at least one tensor", inputs=())
    with torch.device("meta"):
        module = nn.Linear(6, 3)
    with pytest.raises(UserError, match=r"^parameter weight is on the meta device, .*: use fake_mode$"):
        capture(module, (X,), (Y,))


def test_other_mistakes_are_one_sentence():
    refused(lambda m, x: m.fc(x.view(5, 5)), r"^Lambda cannot be exported for training: RuntimeError: ")
    refused(lambda m, x: m.fc(x), r"^a loss must be cross_entropy, mse or a torch.nn.Module, not 'l1'$", loss="l1")
    refused(lambda m, x: m.fc(x), r"^a loss must not have parameters", loss=nn.Linear(3, 1))
    module = Lambda(lambda m, x: m.fc(x))
    module.requires_grad_(False)
    module.row.requires_grad_(True)
    with pytest.raises(UserError, match=r"cannot be exported|trains no parameter"):
        capture_training(module, "cross_entropy", (X,), Y, only(module, "fc.weight"))


def test_statistics_that_two_calls_change_are_refused():
    norm = nn.BatchNorm1d(6)
    module = nn.Sequential(norm, nn.Linear(6, 6), norm, nn.Linear(6, 3))
    with pytest.raises(UserError, match=r"^BatchNorm .*reads .*running_mean.* after it was overwritten"):
        capture(module, (X,), (Y,))


def test_masks_can_be_given():
    module = nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.5), nn.Linear(5, 3))
    graph = capture(module, (X,), (Y,))
    mask = np.zeros((4, 1, 1, 5))
    seen = Reference(graph).step({"input": X.numpy(), "target": Y.numpy()}, masks={"1.mask": mask})
    assert np.allclose(seen[graph.outputs["output"]].reshape(4, 3), module[2].bias.detach().numpy())
