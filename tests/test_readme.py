"""The commands and the example of README.md run as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.S) for line in block.splitlines()]
EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, re.S)
LIMIT = 600


def run(arguments, folder):
    bin_folder = str(Path(sys.executable).parent)
    environment = os.environ | {"PATH": bin_folder + os.pathsep + os.environ["PATH"]}
    done = subprocess.run(
        arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_readme_has_commands_and_an_example():
    assert len(COMMANDS) >= 6
    assert len(EXAMPLES) == 1


@pytest.mark.verilator
@pytest.mark.parametrize("command", COMMANDS)
def test_command(command, tmp_path):
    run(["bash", "-c", command], tmp_path)


@pytest.mark.verilator
def test_example(tmp_path):
    run([sys.executable, "-c", EXAMPLES[0]], tmp_path)
