"""One sentence and exit code 2 for models that cannot be read, and no code of a file ever runs."""

import io
import json
import os
import sys
import zipfile

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from models.zoo import Mlp
from tests.cli.support import arch_file, settings


def model_file(tmp_path, body):
    path = tmp_path / "model.py"
    path.write_text(f"import torch\nfrom torch import nn\n\n\ndef build():\n{body}")
    return f"{path}:build"


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("    raise RuntimeError('not today')\n", "line 6: RuntimeError: not today"),
        ("    return 3\n", "must return a torch.nn.Module and its example inputs"),
        ("    return nn.Linear(4, 4), (torch.zeros(0, 4),)\n", "every dimension must be at least 1"),
        ("    return nn.Sequential(nn.Linear(4, 4), nn.Tanh()), (torch.zeros(2, 4),)\n", "tanh"),
    ],
)
@pytest.mark.usefixtures("no_bytecode")
def test_a_python_model_that_cannot_run(assert_refused, tmp_path, body, error):
    assert_refused("simulate", model_file(tmp_path, body), "--arch", "tiny", text=error)


BROKEN = """\
    first = nn.Linear(64, 64)
    nn.init.constant_(first.weight, 1e30)
    return nn.Sequential(first, nn.Linear(64, 10)), (torch.zeros(2, 64),)
"""


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (
            "    return nn.Sequential(nn.Linear(64, 10), nn.Tanh()), (torch.zeros(2, 64),)\n",
            "the training step needs 2 operators that cannot be lowered: aten.tanh.default in 1 (activation.py:",
        ),
        (
            "    return nn.Linear(4, 10), (torch.zeros(2, 4),)\n",
            "must take digits, [batch, 1, 8, 8] or [batch, 64], not",
        ),
        ("    return nn.Linear(64, 9), (torch.zeros(2, 64),)\n", "must give a score for each of 10 digits, not 9"),
        ("    return nn.ReLU(), (torch.zeros(2, 64),)\n", "has no parameter to train"),
        (BROKEN, "step 0: the loss is nan; the first tensor with a value that is not finite is 0."),
    ],
)
@pytest.mark.usefixtures("no_bytecode")
def test_a_python_model_that_cannot_be_trained(assert_refused, tmp_path, body, error):
    arguments = ("--arch", "tiny", "--rtl-steps", 0, "--steps", 1, "--epochs", 1, "--sparsity", "dense")
    assert_refused("train", model_file(tmp_path, body), *arguments, text=error)


@pytest.mark.usefixtures("no_bytecode")
def test_layers_that_stay_dense_are_named(sparseloom, tmp_path):
    model = model_file(
        tmp_path,
        "    layers = nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 10)\n"
        "    return nn.Sequential(*layers), (torch.zeros(2, 64),)\n",
    )
    arguments = ("--arch", "tiny", "--rtl-steps", 0, "--steps", 1, "--epochs", 1, "--sparsity", "2:16")
    result = sparseloom("train", model, *arguments)
    assert result.code == 0, result.err
    assert "2.weight: dense: its 24 input channels are not a multiple of 32" in result.out


@pytest.mark.usefixtures("no_bytecode")
def test_a_step_that_does_not_fit_the_memory(assert_refused, tmp_path):
    arch = arch_file(tmp_path, settings(memory={"data_bits": 64, "address_bits": 24}))
    layers = "nn.Linear(64, 2048), nn.Linear(2048, 2048), nn.Linear(2048, 10)"
    model = model_file(tmp_path, f"    return nn.Sequential({layers}), (torch.zeros(2, 64),)\n")
    text = "external memory of 16,777,216 bytes is too small: 1.weight needs 16,777,216 bytes from"
    assert_refused("train", model, "--arch", arch, "--rtl-steps", 0, "--sparsity", "dense", text=text)


@pytest.fixture
def no_bytecode(monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers(assert_refused, tmp_path, value):
    state = {name: item.numpy().copy() for name, item in Mlp().state_dict().items()}
    state["fc2.weight"][3, 5] = value
    path = tmp_path / "weights.safetensors"
    save_file(state, path)
    assert_refused("simulate", "mlp", "--arch", "tiny", "--weights", path, text="fc2.weight")


@pytest.fixture(scope="module")
def exported():
    """Bytes of a `.pt2` file."""
    buffer = io.BytesIO()
    program = torch.export.export(torch.nn.Sequential(torch.nn.Linear(4, 4)).eval(), (torch.randn(2, 4),))
    torch.export.save(program, buffer)
    return buffer.getvalue()


def replaced(archive, changes):
    """The archive with the contents of some members changed; names without the archive's top folder."""
    old, buffer = zipfile.ZipFile(io.BytesIO(archive)), io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            change = changes.get(name.split("/", 1)[1], lambda data: data)
            new.writestr(name, change(old.read(name)))
    return buffer.getvalue()


class Planted:
    """Runs a command when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def test_a_truncated_pt2_file(assert_refused, tmp_path, exported):
    path = tmp_path / "model.pt2"
    path.write_bytes(exported[: len(exported) // 2])
    assert_refused("simulate", path, "--arch", "tiny", text="model.pt2")
    path.write_bytes(b"")
    assert_refused("simulate", path, "--arch", "tiny", text="model.pt2")


def test_a_pt2_file_that_hides_code_in_a_weight(assert_refused, tmp_path, exported):
    mark = tmp_path / "it_ran"
    planted = io.BytesIO()
    torch.save(Planted(mark), planted)

    def pickled(data):
        config = json.loads(data)
        config["config"]["0.weight"]["use_pickle"] = True
        return json.dumps(config)

    changes = {
        "data/weights/model_weights_config.json": pickled,
        "data/weights/weight_0": lambda data: planted.getvalue(),
    }
    path = tmp_path / "model.pt2"
    path.write_bytes(replaced(exported, changes))
    assert_refused("simulate", path, "--arch", "tiny", text="model.pt2")
    assert not mark.exists()


@pytest.mark.verilator
def test_code_in_a_place_that_is_not_read_never_runs(sparseloom, tmp_path, exported):
    mark = tmp_path / "it_ran"
    planted = io.BytesIO()
    torch.save(Planted(mark), planted)
    path = tmp_path / "model.pt2"
    path.write_bytes(replaced(exported, {"data/sample_inputs/model.pt": lambda data: planted.getvalue()}))
    result = sparseloom("simulate", path, "--arch", "tiny", "--json")
    assert not mark.exists()
    assert result.code in (0, 2), result.err
