"""What a user may name as a model, and the sentence for everything that is wrong with it."""

import numpy as np
import pytest
import safetensors.torch
import torch

from hwgen.arch import UserError
from models import zoo
from scheduler.load import load_model

GOOD = """
import torch
from neighbour import SIZE

def model():
    return torch.nn.Linear(SIZE, 3), (torch.ones(2, SIZE),)

def single():
    return torch.nn.ReLU(), torch.ones(2, 3)
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "net.py").write_text(GOOD)
    (tmp_path / "neighbour.py").write_text("SIZE = 4\n")
    return tmp_path


def test_zoo_names_take_settings():
    model = load_model("linear:rows=3,inputs=5,outputs=7")
    assert model.graph.listing().splitlines()[1] == "linear 0 [3, 7] = input, 0.weight"
    assert model.inputs["input"].shape == (3, 5)


def test_a_function_of_a_file_may_import_its_neighbours(folder):
    model = load_model(f"{folder}/net.py:model")
    assert (model.name, model.inputs["input"].shape) == ("model", (2, 4))
    assert load_model(f"{folder}/net.py:single").graph.inputs == ("input",)


def test_a_pt2_file_gets_seeded_inputs(tmp_path):
    module, inputs = zoo.build("mlp", batch=3)
    torch.export.save(torch.export.export(module, inputs), tmp_path / "net.pt2")
    models = [load_model(f"{tmp_path}/net.pt2", seed=seed) for seed in (1, 1, 2)]
    assert models[0].module is None
    np.testing.assert_array_equal(models[0].inputs["x"], models[1].inputs["x"])
    assert not np.array_equal(models[0].inputs["x"], models[2].inputs["x"])


@pytest.mark.parametrize("spec", ["mlp", "net.pt2"])
def test_weights_are_replaced(spec, tmp_path):
    module, _ = zoo.build("mlp", batch=3, seed=9)
    safetensors.torch.save_file(dict(module.state_dict()), tmp_path / "w.safetensors")
    torch.export.save(torch.export.export(*zoo.build("mlp", batch=3)), tmp_path / "net.pt2")
    named = spec if spec == "mlp" else f"{tmp_path}/{spec}"
    model = load_model(named, weights=tmp_path / "w.safetensors")
    np.testing.assert_array_equal(model.graph.constants["fc2.weight"], module.fc2.weight.detach().numpy().T)
    assert not np.array_equal(load_model(named).graph.constants["fc2.weight"], model.graph.constants["fc2.weight"])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mpl", r"^unknown model 'mpl': the zoo has mlp, residual_mlp, linear$"),
        ("mlp:depth=3", r"^model mlp has no setting 'depth': it has batch, hidden$"),
        ("linear:rows=0", r"^setting rows of model linear must be in 1\.\.65536, not 0$"),
        ("linear:rows=-3", r"^setting rows of model linear must be in 1\.\.65536, not -3$"),
        ("some model", r"^cannot tell what model 'some model' is: give a zoo name "),
        ("none.py:model", r"^cannot read none\.py: there is no such file$"),
        ("none.pt2", r"^cannot read none\.pt2: No such file or directory$"),
    ],
)
def test_wrong_names_give_one_sentence(spec, message):
    with pytest.raises(UserError, match=message):
        load_model(spec)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import torch\nx = 1 / 0\n", r"bad\.py, line 2: ZeroDivisionError: division by zero$"),
        ("def model(:\n", r"bad\.py, line 1: SyntaxError: invalid syntax"),
        ("\n\ndef model():\n    raise KeyError('k')\n", r"bad\.py, line 4: KeyError: 'k'$"),
        ("import sys\ndef model():\n    sys.exit(3)\n", r"bad\.py, line 3: SystemExit: 3$"),
        ("import no_such_module\n", r"bad\.py, line 1: ModuleNotFoundError: No module named 'no_such_module'$"),
        ("other = 1\n", r"bad\.py has no function model$"),
        ("def model():\n    return 3\n", r"bad\.py:model must return a torch\.nn\.Module and its example inputs$"),
    ],
)
def test_errors_in_a_user_file_name_file_and_line(text, message, tmp_path):
    (tmp_path / "bad.py").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load_model(f"{tmp_path}/bad.py:model")
    assert "\n" not in str(caught.value)


def test_naming_a_file_without_a_function_runs_nothing(tmp_path):
    (tmp_path / "net.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')\n")
    with pytest.raises(UserError, match="cannot tell what model"):
        load_model(f"{tmp_path}/net.py")
    assert not (tmp_path / "marker").exists()


def _changed(**tensors):
    state = dict(zoo.build("mlp")[0].state_dict())
    return {name: value for name, value in (state | tensors).items() if value is not None}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"fc1.bias": None}, r"^the weights do not fit the model: fc1\.bias is missing$"),
        ({"fc4.bias": torch.ones(3)}, r"^the weights do not fit the model: fc4\.bias is not in the model$"),
        ({"fc1.bias": torch.ones(3)}, r"fc1\.bias has shape \[3\] instead of \[128\]$"),
        ({"fc1.bias": torch.ones(128).long()}, r"^parameter fc1\.bias is torch\.int64, allowed are torch\.float32"),
    ],
)
@pytest.mark.parametrize("spec", ["mlp", "net.pt2"])
def test_weights_that_do_not_fit_are_refused(spec, tensors, message, tmp_path):
    safetensors.torch.save_file(_changed(**tensors), tmp_path / "w.safetensors")
    if spec != "mlp":
        torch.export.save(torch.export.export(*zoo.build("mlp", batch=3)), tmp_path / spec)
        spec = f"{tmp_path}/{spec}"
    with pytest.raises(UserError, match=message):
        load_model(spec, weights=tmp_path / "w.safetensors")


def test_missing_and_damaged_weights_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"^cannot read weights .*none: "):
        load_model("mlp", weights=tmp_path / "none")
    (tmp_path / "bad").write_bytes(b"\x00" * 100)
    with pytest.raises(UserError, match=r"bad is not a \.safetensors file, or it is damaged: "):
        load_model("mlp", weights=tmp_path / "bad")
