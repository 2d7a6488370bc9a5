"""The examples of the README run as they stand, one behind the other."""

import re
from pathlib import Path

from scheduler.attention import lower

PAGE = Path(lower.__file__).with_name("README.md")


def test_examples(capsys):
    examples, names = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL), {}
    for example in examples:
        exec(compile(example, str(PAGE), "exec"), names)
    printed = capsys.readouterr().out.splitlines()
    assert printed.pop(0).startswith("(10, 32) [ 0 ")
    assert printed[-3:] == ["20 (10, 32)", "8 (4, 32)", "(1, 32)"]
