import itertools
import json

import numpy as np

from hwgen.arch.commands import command
from hwgen.arch.isa import Engine, Opcode
from sim.device import DONE, EVENT, ISSUE, STATE
from sim.timeline import instruction_spans, timeline, write_timeline

COMMANDS = [
    command(Opcode.LOAD, beats=1, signal=1 << Engine.TENSOR),
    command(Opcode.TENSOR, tile_cols=2, wait=1 << Engine.LOAD),
    command(Opcode.LOAD, beats=2),
    command(Opcode.TENSOR),
]


def events(*rows):
    made = np.zeros(len(rows), EVENT)
    for index, (cycle, length, kind, engine, state) in enumerate(rows):
        made[index] = (cycle, length, kind, engine, state, 0)
    return made


EVENTS = events(
    (2, 0, ISSUE, 0, 0),
    (2, 8, STATE, 0, 1),
    (9, 0, DONE, 0, 0),
    (10, 0, ISSUE, 0, 0),
    (11, 0, ISSUE, 1, 0),
    (11, 5, STATE, 1, 4),
    (16, 20, STATE, 1, 1),
    (20, 0, ISSUE, 1, 0),
    (25, 0, DONE, 1, 0),
    (40, 0, DONE, 1, 0),
)


def test_pulses_belong_to_the_instructions_of_their_engine_in_order():
    assert instruction_spans(EVENTS, COMMANDS) == [(0, 2, 10), (1, 11, 26), (2, 10, 40), (3, 20, 41)]


def test_rows_never_overlap_and_names_come_from_the_listing():
    spans = [entry for entry in timeline(EVENTS, COMMANDS)["traceEvents"] if entry["ph"] == "X"]
    rows = {(span["pid"], span["tid"]) for span in spans}
    for row in rows:
        mine = sorted((s["ts"], s["ts"] + s["dur"]) for s in spans if (s["pid"], s["tid"]) == row)
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(mine))
    names = [span["name"] for span in spans if span.get("cat") == "instruction"]
    assert any(name.startswith("1 TENSOR dataflow=output_stationary tile_cols=2") for name in names)
    assert not any("after" in name for name in names)
    assert [s["name"] for s in spans if s["cat"] == "state" and s["pid"] == Engine.TENSOR + 1] == ["fill", "busy"]


def test_file_is_json_with_named_rows(tmp_path):
    path = tmp_path / "timeline.json"
    write_timeline(path, EVENTS, COMMANDS, title="tiny")
    entries = json.loads(path.read_text())["traceEvents"]
    names = {entry["args"]["name"] for entry in entries if entry["name"] in ("process_name", "thread_name")}
    assert {"tiny TENSOR", "state", "instructions", "instructions, overlap 1"} <= names


def test_a_run_without_events_has_no_spans():
    assert instruction_spans(EVENTS[:0], COMMANDS) == []
