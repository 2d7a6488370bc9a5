"""What is installed is all that runs: packages by folder, and the files beside the modules."""

import subprocess
import tomllib
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parent.parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
PAGES_AND_FIGURES = (".md", ".json", ".svg")


def tracked() -> list[Path]:
    """Files of the repository in folders that are installed."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    include = SETTINGS["packages"]["find"]["include"]
    return [
        Path(name) for name in names.split("\0") if "/" in name and any(fnmatch(name.split("/")[0], i) for i in include)
    ]


def test_every_folder_with_modules_is_a_package():
    folders = {path.parent for path in tracked() if path.suffix == ".py"}
    assert Path("hwgen/arch") in folders
    assert [str(folder) for folder in folders if not (ROOT / folder / "__init__.py").exists()] == []


def test_what_modules_read_beside_them_is_installed():
    given = {
        path
        for folder, globs in SETTINGS["package-data"].items()
        for g in globs
        for path in ROOT.joinpath(*folder.split(".")).glob(g)
    }
    needed = [path for path in tracked() if path.suffix != ".py" and path.suffix not in PAGES_AND_FIGURES]
    assert len(needed) > 50
    assert [str(path) for path in needed if ROOT / path not in given] == []
