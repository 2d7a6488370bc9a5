"""The `.pt2` reader: the same programs as capture; one sentence for every damaged or hostile file, running nothing."""

import contextlib
import io
import json
import os
import random
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from hwgen.arch import UserError, load
from models import zoo
from scheduler.boundary import quiet
from scheduler.capture import capture
from scheduler.lower import compile_graph
from scheduler.pt2 import load_pt2
from tests.scheduler.support import options


class Various(nn.Module):
    """In-place operators, dropout, views, a literal, tied and transposed parameters."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(12, 16), nn.Linear(16, 16)
        self.act, self.drop = nn.ReLU(inplace=True), nn.Dropout()
        self.w = nn.Parameter(torch.randn(16, 8))

    def forward(self, x):
        h = self.drop(self.act(self.fc1(x.flatten(1))))
        h = (self.fc2(h) + h + torch.tensor([0.5] * 16)) @ self.w
        return h @ self.w.t(), torch.relu(h)


MODELS = {
    "mlp": lambda: zoo.build("mlp", batch=5),
    "residual": lambda: zoo.build("residual_mlp", batch=5),
    "various": lambda: (Various().eval(), (torch.randn(5, 3, 4),)),
    "half": lambda: (nn.Linear(8, 8).half().eval(), (torch.ones(2, 8).half(),)),
}


def save(path, module, inputs, *, decompose=False, **settings):
    exported = torch.export.export(module, inputs, **settings)
    with pytest.warns(FutureWarning) if decompose else contextlib.nullcontext():
        torch.export.save(exported.run_decompositions({}) if decompose else exported, path)
    return path


@pytest.mark.parametrize("decompose", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_a_file_gives_the_same_program_as_the_module(name, decompose, tmp_path):
    torch.manual_seed(1)
    module, inputs = MODELS[name]()
    path = save(tmp_path / "model.pt2", module, inputs, decompose=decompose)
    captured, read = capture(module, inputs), load_pt2(path)
    assert read.listing() == captured.listing()
    programs = [compile_graph(graph, load("tiny"), options("2:8")) for graph in (captured, read)]
    assert programs[0].encode() == programs[1].encode()
    np.testing.assert_array_equal(programs[0].image(), programs[1].image())


def test_unsupported_operators_are_named_with_place_and_line(tmp_path):
    path = save(tmp_path / "model.pt2", nn.Sequential(nn.Linear(4, 4), nn.GELU()).eval(), (torch.ones(2, 4),))
    with pytest.raises(
        UserError, match=r"^the model needs 1 operator that cannot be lowered: aten\.gelu\.default in 1 \("
    ):
        load_pt2(path)


class Overwritten(nn.Module):
    """Reads a view that an in-place operator has changed meanwhile."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        y = self.fc(x)
        view = y.view(1, -1)
        y.relu_()
        return view + view


def test_a_view_of_an_overwritten_value_is_refused(tmp_path):
    """Only a graph that was saved before decomposition has such views; capture gets rid of them."""
    path = save(tmp_path / "model.pt2", Overwritten().eval(), (torch.ones(2, 4),))
    with pytest.raises(
        UserError, match=r"aten\.add\.Tensor \(.*; it reads a value that an in-place operator has changed\)"
    ):
        load_pt2(path)


@pytest.fixture
def plain(tmp_path):
    """A good file of one linear layer."""
    torch.manual_seed(0)
    return save(tmp_path / "plain.pt2", nn.Sequential(nn.Linear(4, 4)).eval(), (torch.ones(2, 4),))


def rewrite(source, target, changes, compression=zipfile.ZIP_STORED):
    """Copy a zip file with some entries (named without the root folder) changed; None drops an entry."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            data = changes.get(name.split("/", 1)[1], old.read(name))
            if data is not None:
                new.writestr(name, data)
    return target


def entry(path, name):
    with zipfile.ZipFile(path) as file:
        return file.read(f"{path.stem}/{name}")


MODEL, WEIGHTS = "models/model.json", "data/weights/model_weights_config.json"


def edited(path, name, edit):
    """JSON entry after `edit` changed it in place."""
    data = json.loads(entry(path, name))
    edit(data)
    return {name: json.dumps(data)}


class Payload:
    """Creates a marker file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def pickled(marker):
    buffer = io.BytesIO()
    torch.save(Payload(marker), buffer)
    return buffer.getvalue()


def test_pickled_sample_inputs_are_refused(plain, tmp_path):
    marker = tmp_path / "marker"
    bad = rewrite(plain, tmp_path / "bad.pt2", {"data/sample_inputs/model.pt": pickled(marker)})
    with pytest.raises(UserError, match=r"bad\.pt2 hides code in its sample inputs \(\w+ mkdir\); it is refused$"):
        load_pt2(bad)
    assert not marker.exists()
    with quiet(), contextlib.suppress(AssertionError):
        torch.export.load(bad)
    assert marker.exists(), "PyTorch's own loader runs the payload; if it does not, this test no longer shows anything"


def test_pickled_weights_are_refused(plain, tmp_path):
    marker = tmp_path / "marker"

    def use_pickle(config):
        config["config"]["0.weight"]["use_pickle"] = True

    changes = edited(plain, WEIGHTS, use_pickle) | {"data/weights/weight_0": pickled(marker)}
    with pytest.raises(
        UserError, match=r"parameter 0\.weight is stored as a pickle, which can run code; it is refused$"
    ):
        load_pt2(rewrite(plain, tmp_path / "bad.pt2", changes))
    assert not marker.exists()


def test_guard_code_is_refused(plain, tmp_path):
    marker = tmp_path / "marker"
    code = f"__import__('os').mkdir({str(marker)!r}) is None"
    changes = edited(plain, MODEL, lambda model: model.update(guards_code=[code]))
    with pytest.raises(UserError, match=r"carries guard code, which would be executed; it is refused$"):
        load_pt2(rewrite(plain, tmp_path / "bad.pt2", changes))
    assert not marker.exists()


def test_shape_expressions_are_refused(tmp_path):
    marker = tmp_path / "marker"
    shapes = ({0: torch.export.Dim("b", min=2, max=9)},)
    dynamic = save(tmp_path / "dynamic.pt2", nn.Linear(4, 4).eval(), (torch.ones(3, 4),), dynamic_shapes=shapes)
    with pytest.raises(
        UserError, match=r"has dynamic shapes, which have no lowering: export the model for a fixed batch$"
    ):
        load_pt2(dynamic)
    code = f"__import__('os').mkdir({str(marker)!r})"

    def hide(model):
        model["range_constraints"] = {}
        for tensor in model["graph_module"]["graph"]["tensor_values"].values():
            for size in tensor["sizes"]:
                if "as_expr" in size:
                    size["as_expr"]["expr_str"] = code

    with pytest.raises(UserError, match=r"has a dynamic shape, which has no lowering"):
        load_pt2(rewrite(dynamic, tmp_path / "bad.pt2", edited(dynamic, MODEL, hide)))
    assert not marker.exists()


@pytest.mark.parametrize("kept", [0, 1, 100, 2000, -1])
def test_truncated_files_are_refused(plain, tmp_path, kept):
    bad = tmp_path / "bad.pt2"
    bad.write_bytes(plain.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"bad\.pt2 is not a \.pt2 file, or it is truncated$"):
        load_pt2(bad)


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"^cannot read .*none\.pt2: No such file or directory$"):
        load_pt2(tmp_path / "none.pt2")
    with pytest.raises(UserError, match=r"^cannot read .*: Is a directory$"):
        load_pt2(tmp_path)


def _set(*path, value):
    def edit(data):
        for key in path[:-1]:
            data = data[key]
        data[path[-1]] = value

    return edit


TENSOR = ("config", "0.weight", "tensor_meta")
NODES = ("graph_module", "graph", "nodes")
DAMAGE = {
    "version": (MODEL, _set("schema_version", "major", value=99), r"has schema version 99\.\d+, only 8\.\* is read"),
    "type": (
        MODEL,
        _set("graph_module", "graph", "nodes", value=7),
        r"graph_module\.graph\.nodes: input should be a valid",
    ),
    "operator": (
        MODEL,
        _set(*NODES, 0, "target", value="os.system"),
        r"1 operator that cannot be lowered: os\.system in 0",
    ),
    "unknown parameter": (
        MODEL,
        _set("graph_module", "signature", "input_specs", 0, "parameter", "parameter_name", value="ghost"),
        r"parameter ghost has no values in the file$",
    ),
    "input type": (
        MODEL,
        _set("graph_module", "graph", "tensor_values", "input", "dtype", value=5),
        r"input input must be",
    ),
    "state": (
        MODEL,
        _set("graph_module", "signature", "output_specs", 0, value={"buffer_mutation": {}}),
        r"the model changes its own state \(buffer_mutation\), which has no lowering$",
    ),
    "weight type": (
        WEIGHTS,
        _set(*TENSOR, "dtype", value=5),
        r"parameter 0\.weight has type code 5, allowed are float32",
    ),
    "weight shape": (WEIGHTS, _set(*TENSOR, "sizes", 0, value={"as_int": 5}), r"needs 80 bytes, the file has 64$"),
    "strides": (WEIGHTS, _set(*TENSOR, "strides", 0, value={"as_int": 1}), r"is not stored contiguously"),
    "outside": (
        WEIGHTS,
        _set("config", "0.weight", "path_name", value="../../etc/passwd"),
        r"has no entry data/weights/\.\.",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_contents_give_one_sentence(name, plain, tmp_path):
    where, edit, message = DAMAGE[name]
    with pytest.raises(UserError, match=message) as caught:
        load_pt2(rewrite(plain, tmp_path / "bad.pt2", edited(plain, where, edit)))
    assert "\n" not in str(caught.value)


def test_missing_entries_and_compression_are_refused(plain, tmp_path):
    with pytest.raises(UserError, match=r"has no entry models/model\.json"):
        load_pt2(rewrite(plain, tmp_path / "bad.pt2", {MODEL: None}))
    with pytest.raises(UserError, match=r"models/model\.json: text: invalid json"):
        load_pt2(rewrite(plain, tmp_path / "bad.pt2", {MODEL: b"[" * 100_000}))
    with pytest.raises(UserError, match=r"has compressed entries"):
        load_pt2(rewrite(plain, tmp_path / "bad.pt2", {}, zipfile.ZIP_DEFLATED))


def test_random_damage_never_gets_past_a_user_error(plain, tmp_path, seed):
    """Bytes of the JSON graph and of the container are changed at random: a graph or one sentence, nothing else."""
    rng, model = random.Random(seed), entry(plain, MODEL)
    whole, sentences = plain.read_bytes(), []
    for case in range(150):
        bad = tmp_path / "bad.pt2"
        if case % 2:
            place = rng.randrange(len(model))
            piece = rng.choice([b'"', b"{", b"7", b"null", b"-1", b"as_int", b"x" * 9, b"1e999"])
            rewrite(plain, bad, {MODEL: model[:place] + piece + model[place + rng.randrange(4) :]})
        else:
            place = rng.randrange(len(whole))
            bad.write_bytes(whole[:place] + rng.randbytes(3) + whole[place + 3 :])
        try:
            load_pt2(bad)
        except UserError as error:
            sentences.append(str(error))
    assert len(sentences) > 50
    assert not any("\n" in sentence for sentence in sentences)
