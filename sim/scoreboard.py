"""The one place in which a cocotb bench compares: what the model expects against what the design shows, in order."""

from collections import deque
from collections.abc import Mapping

import numpy as np


class Scoreboard:
    """Compares transactions in order. A transaction is a number, a tuple of numbers, or arrays by name.

    `matched` counts those that were equal. Numbers in messages are hexadecimal.
    """

    def __init__(self, name: str) -> None:
        self.name, self.matched = name, 0
        self._expected: deque[object] = deque()

    @property
    def waiting(self) -> int:
        """Transactions that the model expects and the design has not shown yet."""
        return len(self._expected)

    def expect(self, item: object) -> None:
        """Append what the model foresees."""
        self._expected.append(item)

    def see(self, item: object, cycle: int) -> None:
        """Compare what the design shows in `cycle` with the oldest expectation. Raises AssertionError."""
        where = f"{self.name} {self.matched} in cycle {cycle}"
        assert self._expected, f"{where}: nothing is expected, the design shows {_text(item)}"
        expected = self._expected.popleft()
        if isinstance(expected, Mapping):
            _compare_arrays(where, expected, item)
        else:
            assert expected == item, f"{where}: expected {_text(expected)}, the design shows {_text(item)}"
        self.matched += 1

    def finish(self, least: int = 1) -> None:
        """Nothing is missing and at least `least` transactions were compared. Raises AssertionError."""
        assert not self._expected, f"{self.name}: {self.waiting} are missing, the first is {_text(self._expected[0])}"
        assert self.matched >= least, f"{self.name}: only {self.matched} of at least {least} were seen"


def _compare_arrays(where: str, expected: Mapping[str, np.ndarray], actual: Mapping[str, np.ndarray]) -> None:
    for name, wanted in expected.items():
        wrong = np.argwhere(wanted != actual[name])
        if len(wrong):
            index = tuple(map(int, wrong[0]))
            raise AssertionError(
                f"{where}: {len(wrong)} values of {name} differ, the first at {list(index)}: "
                f"expected {int(wanted[index]):#x}, the design has {int(actual[name][index]):#x}"
            )


def _text(item: object) -> str:
    if isinstance(item, int):
        return f"{int(item):#x}"
    if isinstance(item, tuple):
        return f"({', '.join(map(_text, item))})"
    return f"arrays {', '.join(item)}" if isinstance(item, Mapping) else repr(item)
