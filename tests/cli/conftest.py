"""The command line, called in this process."""

import sys

import pytest

from sim import cli


class Result:
    """Exit code and text of one call."""

    def __init__(self, code, captured):
        self.code, self.out, self.err = code, captured.out, captured.err


@pytest.fixture
def sparseloom(capfd, monkeypatch):
    """Runs the command in this process."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["sparseloom", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return Result(stop.value.code or 0, capfd.readouterr())

    return run


@pytest.fixture
def assert_refused(sparseloom, tmp_path):
    """Runs the command and expects one sentence, exit code 2, no result and nothing new in the test's folder."""

    def run(*arguments, text):
        before = sorted(tmp_path.rglob("*"))
        result = sparseloom(*arguments)
        assert result.code == 2, result.err
        assert result.out == ""
        assert result.err.startswith("error: ")
        assert result.err.count("\n") == 1, result.err
        assert text in result.err
        assert "Traceback" not in result.err
        assert sorted(tmp_path.rglob("*")) == before

    return run
