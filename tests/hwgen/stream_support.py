"""A Verilated component with streams `i` and `o`, driven cycle by cycle."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from sim.step_block import StepBlock
from tests.support import Stalls, never


@dataclass
class Transfer:
    """Cycles in which items entered, cycles and bits of those that left."""

    entered: list[int] = field(default_factory=list)
    left: list[int] = field(default_factory=list)
    items: list[int] = field(default_factory=list)


class StreamBlock(StepBlock):
    """Sends items through a component with streams `i` and `o`, `busy` and `clear`; state is kept between calls."""

    def transfer(
        self, items: Iterable[int], *, stalls: Stalls = never, sink: Stalls = never, limit: int = 20_000, **inputs: int
    ) -> Transfer:
        """Send items until nothing is inside; checks that an offered item is held. `inputs` are constant."""
        result, waiting, offered = Transfer(), list(reversed(list(items))), None
        pattern, sink_pattern, showing = stalls(), sink(), False
        start = self.cycle
        while self.cycle < start + limit:
            showing = bool(waiting) and (showing or not next(pattern))
            ready = not next(sink_pattern)
            shown = {"i": waiting[-1] if showing else 0, "i_valid": int(showing), "o_ready": int(ready)}
            out = self.step(**shown, **inputs)
            cycle = self.cycle - 1
            assert offered is None or (out["o_valid"] and out["o"] == offered), f"cycle {cycle}: not held"
            offered = out["o"] if out["o_valid"] and not ready else None
            if out["o_valid"] and ready:
                result.left.append(cycle)
                result.items.append(out["o"])
            if showing and out["i_ready"]:
                waiting.pop()
                result.entered.append(cycle)
                showing = False
            if not waiting and not shown["i_valid"] and not out["busy"]:
                return result
        raise AssertionError(f"{len(waiting)} items are left after {limit} cycles, {len(result.items)} came out")
