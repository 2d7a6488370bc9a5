"""Timeline of a run as Chrome trace JSON, for ui.perfetto.dev or chrome://tracing: instructions and states by engine.

Instructions of one engine may overlap (the next one fills the array while the last one drains); they then take the
next free row of the engine's group. One cycle is one microsecond on the screen's ruler.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hwgen.arch.commands import Command, listing
from hwgen.arch.isa import Engine
from hwgen.arch.registers import TensorState
from sim.device import DONE, ISSUE, STATE

ENGINE_STATES = ("idle", "busy", "waits for tokens", "stalled")
"""Names of the trace states of all engines but the tensor engine, which has `TensorState`."""
_STATE_ROW, _INSTRUCTION_ROW = 0, 1


def state_name(engine: Engine, state: int) -> str:
    """Name of a trace state."""
    if engine is Engine.TENSOR:
        return TensorState(state).name.lower()
    return ENGINE_STATES[state] if state < len(ENGINE_STATES) else f"state {state}"


def instruction_spans(events: np.ndarray, commands: Sequence[Command]) -> list[tuple[int, int, int]]:
    """`(instruction index, first cycle, cycle after the last)` of all that were issued, in program order.

    An engine issues and completes its instructions in program order, so the k-th pulse belongs to its k-th instruction.
    What was not completed ends with the last event.
    """
    end = int((events["cycle"] + events["length"]).max(initial=0))
    spans = []
    for engine in Engine:
        mine = events[events["engine"] == engine]
        issued, done = (mine["cycle"][mine["kind"] == kind] for kind in (ISSUE, DONE))
        indices = [i for i, item in enumerate(commands) if item.engine == engine]
        for number, (index, start) in enumerate(zip(indices, issued)):
            spans.append((index, int(start), int(done[number]) + 1 if number < len(done) else end))
    return sorted(spans)


def timeline(events: np.ndarray, commands: Sequence[Command], *, title: str = "sparseloom") -> dict[str, Any]:
    """Chrome trace object of a run; see `write_timeline`."""
    entries: list[dict[str, Any]] = []
    used = {item.engine for item in commands}
    for engine in Engine:
        if engine in (Engine.FILL, Engine.ATTEND) and engine not in used:
            continue
        entries += _metadata(engine, title)
        spans = [span for span in instruction_spans(events, commands) if commands[span[0]].engine == engine]
        entries += _instructions(engine, spans, commands)
        entries += _states(engine, events[(events["engine"] == engine) & (events["kind"] == STATE)])
    return {"traceEvents": entries, "displayTimeUnit": "ns", "otherData": {"unit": "1 us on the ruler is 1 cycle"}}


def write_timeline(path: Path, events: np.ndarray, commands: Sequence[Command], *, title: str = "sparseloom") -> None:
    """Write the timeline of a run to `path` as JSON."""
    path.write_text(json.dumps(timeline(events, commands, title=title), separators=(",", ":")))


def _metadata(engine: Engine, title: str) -> list[dict[str, Any]]:
    named = {"process_name": {"name": f"{title} {engine.name}"}, "process_sort_index": {"sort_index": int(engine)}}
    process = [{"ph": "M", "name": name, "pid": engine + 1, "args": args} for name, args in named.items()]
    return [*process, {"ph": "M", "name": "thread_name", **_row(engine, _STATE_ROW), "args": {"name": "state"}}]


def _row(engine: Engine, number: int) -> dict[str, int]:
    """Process and thread of a row; some viewers want thread numbers that are unique over all processes, and no zero."""
    return {"pid": engine + 1, "tid": 100 * (engine + 1) + number}


def _instructions(
    engine: Engine, spans: Sequence[tuple[int, int, int]], commands: Sequence[Command]
) -> Iterator[dict[str, Any]]:
    free: list[int] = []
    for index, start, end in spans:
        row = next((number for number, cycle in enumerate(free) if cycle <= start), len(free))
        if row == len(free):
            name = {"name": "instructions" if row == 0 else f"instructions, overlap {row}"}
            yield {"ph": "M", "name": "thread_name", **_row(engine, _INSTRUCTION_ROW + row), "args": name}
            free.append(0)
        free[row] = end
        text = " ".join(listing(commands[index]).split())
        span = {"name": f"{index} {text.split(' after ')[0].split(' then ')[0]}", "cat": "instruction", "ph": "X"}
        span |= {"ts": start, "dur": end - start, **_row(engine, _INSTRUCTION_ROW + row)}
        yield {**span, "args": {"instruction": index, "listing": text}}


def _states(engine: Engine, events: np.ndarray) -> Iterator[dict[str, Any]]:
    for event in events:
        span = {"name": state_name(engine, int(event["state"])), "cat": "state", "ph": "X", "ts": int(event["cycle"])}
        yield {**span, "dur": int(event["length"]), **_row(engine, _STATE_ROW)}
