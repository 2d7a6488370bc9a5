import resource
from pathlib import Path

import pytest

from hwgen.arch import UserError
from sim.files import output_folder


def leftovers(folder):
    return [path.name for path in folder.iterdir() if "partial" in path.name]


def test_a_new_folder_appears_whole(tmp_path):
    with output_folder(tmp_path / "a" / "b") as folder:
        (folder / "one.txt").write_text("1")
        assert not (tmp_path / "a" / "b").exists()
    assert (tmp_path / "a" / "b" / "one.txt").read_text() == "1"
    assert leftovers(tmp_path / "a") == []


def test_an_old_folder_keeps_its_other_files(tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    (target / "old.txt").write_text("old")
    (target / "one.txt").write_text("before")
    with output_folder(target) as folder:
        (folder / "one.txt").write_text("after")
    assert {path.name: path.read_text() for path in target.iterdir()} == {"old.txt": "old", "one.txt": "after"}


def test_an_error_leaves_nothing(tmp_path):
    with pytest.raises(KeyError), output_folder(tmp_path / "out") as folder:
        raise KeyError((folder / "one.txt").write_text("1"))
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "out").write_text("")
    with (
        pytest.raises(UserError, match=r"^cannot write to .*out: it is not a folder$"),
        output_folder(tmp_path / "out"),
    ):
        pass
    with (
        pytest.raises(UserError, match=r"^cannot write to .*deep: .*out is not a folder$"),
        output_folder(tmp_path / "out" / "deep"),
    ):
        pass


def test_a_folder_in_the_way_of_a_file_leaves_all_as_it_was(tmp_path):
    (tmp_path / "out" / "two.txt").mkdir(parents=True)
    expected = pytest.raises(UserError, match=r"^cannot write to .*out: two\.txt in it is a folder$")
    with expected, output_folder(tmp_path / "out") as folder:
        (folder / "one.txt").write_text("1")
        (folder / "two.txt").write_text("2")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["two.txt"]
    assert leftovers(tmp_path) == []


def test_a_full_disk_leaves_nothing(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        expected = pytest.raises(UserError, match=r"^cannot write to .*out: File too large$")
        with expected, output_folder(tmp_path / "out") as folder:
            (folder / "large.bin").write_bytes(bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named():
    with (
        pytest.raises(UserError, match=r"^cannot write to /proc/nothing/out: "),
        output_folder(Path("/proc/nothing/out")),
    ):
        pass
