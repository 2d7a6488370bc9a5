"""The example of the README runs as it stands."""

import re
from pathlib import Path

from scheduler.attention import lower

PAGE = Path(lower.__file__).with_name("README.md")


def test_example(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    exec(compile(example, str(PAGE), "exec"), {})
    printed = capsys.readouterr().out
    assert printed.startswith("(10, 32) [ 0 ")
