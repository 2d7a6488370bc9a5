"""Programs: memory image, inputs and outputs, listing, and files."""

import json
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hwgen.arch import UserError, load
from hwgen.arch.commands import decode
from models import zoo
from models.machine import Machine
from scheduler import program_file
from scheduler.lower import compile_module
from tests.scheduler.support import options, run_golden


@pytest.fixture(scope="module")
def program():
    return compile_module(*zoo.build("residual_mlp", batch=3, hidden=20), load("tiny"), options("2:8"))


@pytest.mark.parametrize("relu", [nn.ReLU(), nn.Identity()])
@pytest.mark.parametrize("bias", [True, False])
def test_the_program_ends_on_a_whole_beat(bias, relu):
    """A beat of sat32 is two instructions, and the hardware reads the last one whole."""
    module = nn.Sequential(nn.Linear(4, 4, bias=bias), relu)
    program = compile_module(module, (torch.ones(2, 4),), load("sat32"))
    assert len(program.commands) == 4 + 2 * bias + (not bias and isinstance(relu, nn.ReLU))
    assert program.memory_size % program.arch.beat_bytes == 0


def test_segments_follow_one_another_on_whole_beats(program):
    end = 0
    for segment in program.segments:
        assert segment.address >= end
        assert segment.address % program.arch.beat_bytes == 0
        end = segment.address + segment.size
    assert program.memory_size == end
    assert program.program_address % 32 == 0
    assert program.symbols["program"] == program.program_address


def test_the_image_holds_program_and_inputs_row_by_row(program):
    x = np.arange(3 * 64, dtype=np.float32).reshape(3, 64)
    image = program.image({"x": x})
    encoded = program.encode()
    assert bytes(image[program.program_address :][: len(encoded)]) == encoded
    (port,) = program.inputs
    placed = image[port.address :][: port.size(program.arch)].view(np.float16)
    np.testing.assert_array_equal(placed.reshape(3, 64), x)


def test_rows_are_filled_with_zeros_and_outputs_read_without_them():
    """An infinite input makes NaN of the filling too (0 x infinity); the store must mask it."""
    module, inputs = zoo.build("linear", rows=3, inputs=5, outputs=6)
    inputs[0][1, 2] = float("inf")
    program = compile_module(module, inputs, load("tiny"), options(output="operand"))
    result = run_golden(program, {"input": inputs[0]})["output"]
    assert result.shape == (3, 6)
    machine = Machine(program.arch, {0: program.image({"input": inputs[0]})})
    before = machine.memory.read(0, program.memory_size)
    machine.run(program.encode())
    memory = machine.memory.read(0, program.memory_size)
    (port,) = program.outputs
    rows = np.frombuffer(memory[port.address :][:48], dtype=np.uint16).reshape(3, 8)
    assert not rows[:, 6:].any()
    changed = np.flatnonzero(np.frombuffer(before, np.uint8) != np.frombuffer(memory, np.uint8))
    assert changed.min() >= port.address
    assert changed.max() < port.address + port.size(program.arch)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, r"^the program has inputs x, not $"),
        ({"y": 0}, r"^the program has inputs x, not y$"),
        ({"x": np.zeros((3, 63))}, r"^input x must be an array of numbers of shape \[3, 64\], not float64 of shape"),
        (
            {"x": np.zeros((3, 64), dtype=object)},
            r"^input x must be an array of numbers of shape \[3, 64\], not object",
        ),
        ({"x": np.full((3, 64), 1e6)}, r"^input x: element \[0, 0\] is 1000000\.0, which overflows fp16$"),
    ],
)
def test_wrong_inputs_give_one_sentence(program, inputs, message):
    with pytest.raises(UserError, match=message):
        program.image(inputs)


def test_infinite_and_nan_inputs_are_taken(program):
    x = np.zeros((3, 64), dtype=np.float32)
    x[0, 0], x[1, 1] = np.inf, np.nan
    result = run_golden(program, {"x": x})["output"].view(np.float32)
    assert np.isnan(result[1]).all()
    assert np.isfinite(result[2]).all()


def test_the_listing_names_symbols_layers_and_decisions(program):
    text = program.listing()
    assert "; 0x" in text
    assert "weights  fc1.weight" in text
    assert "; fc2: relu_2 = relu_1 @ fc2.weight, + fc2.bias, + relu relu; 3 x 20 x 20 2:8, " in text
    assert text.count("TENSOR") == sum(item.opcode.name == "TENSOR" for item in program.commands)


def test_encoded_instructions_decode_to_the_same(program):
    encoded = program.encode()
    assert tuple(decode(encoded[at : at + 32]) for at in range(0, len(encoded), 32)) == program.commands


def test_a_saved_program_loads_as_it_was(program, tmp_path):
    program_file.save(program, tmp_path / "out")
    again = program_file.load(tmp_path / "out")
    assert again == program
    x = np.ones((3, 64), dtype=np.float32)
    np.testing.assert_array_equal(again.image({"x": x}), program.image({"x": x}))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["program.bin", "program.json", "program.lst"]


def test_equal_inputs_give_equal_files(tmp_path):
    for name in ("a", "b"):
        made = compile_module(*zoo.build("mlp", batch=3), load("tiny"), options("2:8"))
        program_file.save(made, tmp_path / name)
    for name in ("program.bin", "program.json", "program.lst"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def _damage(folder: Path, name: str, text: str):
    (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda f: (f / "program.bin").unlink(), r"^cannot read a program from .*: No such file or directory$"),
        (lambda f: (f / "program.bin").write_bytes(b"x"), r"program\.bin is damaged or belongs to another program$"),
        (lambda f: _damage(f, "program.json", "{"), r"program\.json: text: "),
        (lambda f: _damage(f, "program.json", '{"version": 2}'), r"program\.json: version: input should be 1$"),
    ],
)
def test_damaged_files_give_one_sentence(program, edit, message, tmp_path):
    program_file.save(program, tmp_path)
    edit(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        program_file.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_an_architecture_that_was_edited_is_checked(program, tmp_path):
    program_file.save(program, tmp_path)
    data = json.loads((tmp_path / "program.json").read_text())
    data["arch"]["array"]["rows"] = 3
    _damage(tmp_path, "program.json", json.dumps(data))
    with pytest.raises(UserError, match=r"program\.json: array\.rows must be a power of two, not 3$"):
        program_file.load(tmp_path)


def test_a_full_disk_leaves_no_partial_file(program, tmp_path):
    """A limit on the size of files stands for the full disk: the write fails half way."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(UserError, match=r"^cannot write the program to .*: File too large$"):
            program_file.save(program, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "out").iterdir()) == []


def test_an_unwritable_folder_gives_one_sentence(program, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^cannot write the program to .*file/out: Not a directory$"):
        program_file.save(program, tmp_path / "file" / "out")


def test_a_model_that_only_passes_its_input_on_has_no_instructions():
    program = compile_module(nn.Flatten(), (torch.arange(12.0).reshape(2, 2, 3),), load("tiny"))
    assert program.commands == ()
    image = program.image({"input": torch.arange(12.0).reshape(2, 2, 3)})
    np.testing.assert_array_equal(program.read_outputs(image)["output"], np.arange(12.0).reshape(2, 6))
