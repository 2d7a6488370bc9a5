"""Architecture files for tests of the command line."""

import json


def arch_file(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


def settings(**changes):
    """A small architecture as YAML text, with settings `part__name` changed."""
    data = {
        "name": "mine",
        "array": {"rows": 4, "cols": 4},
        "scratchpads": {"act_depth": 256, "wgt_depth": 2048, "acc_depth": 1024},
        "memory": {"data_bits": 64},
    }
    for key, value in changes.items():
        part, _, name = key.partition("__")
        (data[part] if name else data)[name or part] = value
    return json.dumps(data)
