"""Generated pages are current, and the C header and JSON say what the tables say."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import hwgen.arch
from hwgen.arch import UserError, load
from hwgen.arch.commands import decode
from hwgen.arch.digest import hash32
from hwgen.arch.isa import TABLE, Cause, Opcode
from hwgen.arch.registers import ADDRESS_BITS, REGISTERS, Access, register
from hwgen.arch.tables import BEGIN, COMMAND, END, EXAMPLES, PAGES, c_header, filled, main, register_json, stale_pages

FOLDER = Path(hwgen.arch.__file__).parent


@pytest.fixture
def pages(tmp_path):
    """A copy of the pages that a test may spoil."""
    for name in PAGES:
        (tmp_path / name).write_text((FOLDER / name).read_text())
    return tmp_path


def test_pages_are_current():
    stale = [path.name for path in stale_pages(FOLDER)]
    assert not stale, f"{', '.join(stale)} is stale; run: {COMMAND}"


@pytest.mark.parametrize("name", PAGES)
def test_a_stale_page_is_found_and_filled(pages, capsys, name):
    fresh = (pages / name).read_text()
    (pages / name).write_text(fresh.replace(END, "stale\n" + END))
    assert main(["--check", "--folder", str(pages)]) == 1
    assert capsys.readouterr().err == f"{name} is stale; run: {COMMAND}\n"
    assert main(["--folder", str(pages)]) == 0
    assert (pages / name).read_text() == fresh
    assert main(["--check", "--folder", str(pages)]) == 0


def test_text_outside_the_markers_is_kept(pages):
    path = pages / "ISA.md"
    path.write_text("Before.\n" + path.read_text() + "After.\n")
    assert stale_pages(pages) == {}


def test_missing_marker_is_named():
    for text in ("", BEGIN, END, f"{END}\n{BEGIN}\n"):
        with pytest.raises(UserError, match=f"^page must hold the lines {BEGIN!r} and {END!r}$"):
            filled(text, "x", where="page")


def test_examples_in_the_page_decode_to_what_they_list():
    text = (FOLDER / "ISA.md").read_text()
    shown = [bytes.fromhex(found) for found in re.findall(r"```text\n.*\n((?:[0-9a-f ]{47}\n){2})```", text)]
    assert [decode(data) for data in shown] == list(EXAMPLES)
    assert {item.opcode for item in EXAMPLES} == set(Opcode)


def test_register_table_is_sound():
    offsets = [item.offset for item in REGISTERS]
    assert offsets == sorted(set(offsets))
    assert all(offset % 4 == 0 and offset < 1 << ADDRESS_BITS for offset in offsets)
    assert len({item.name for item in REGISTERS}) == len(REGISTERS)
    for item in REGISTERS:
        used = [bit for bits in item.bits for bit in range(bits.low, bits.low + bits.width)]
        assert len(set(used)) == len(used)
        assert all(bit < 32 for bit in used)
    assert register("CTRL").offset == 0
    assert [bits.name for bits in register("CTRL").bits] == ["ap_start", "ap_done", "ap_idle", "ap_ready"]
    assert {bits.access for bits in register("ISR").bits} == {Access.WRITE_ONE_CLEARS}


PROGRAM = r"""
#include <stdio.h>
#include "sparseloom.h"
int main(void) {
%s
    return 0;
}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: cc is not on the PATH")
def test_c_header_compiles_and_agrees(tmp_path):
    arch = load("tiny")
    expected = {f"REG_{item.name}": item.offset for item in REGISTERS}
    expected |= {
        f"{item.name}_{bits.name.upper()}_MASK": ((1 << bits.width) - 1) << bits.low
        for item in REGISTERS
        for bits in item.bits
    }
    expected |= {f"OPCODE_{item.name}": item.value for item in Opcode}
    expected |= {f"CAUSE_{item.name}": item.value for item in Cause}
    expected |= {"ARCH_HASH": hash32(arch), "ARCH_ROWS": 4, "ARCH_BEAT_BYTES": 8, "ENGINE_FETCH": 255}
    prints = "\n".join(f'    printf("{name} %u\\n", SPARSELOOM_{name});' for name in expected)
    (tmp_path / "sparseloom.h").write_text(c_header(arch))
    (tmp_path / "main.c").write_text(PROGRAM % prints)
    flags = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    subprocess.run(["cc", *flags, "-o", "main", "main.c"], cwd=tmp_path, check=True, timeout=60)
    output = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=True, timeout=10).stdout
    assert {line.split()[0]: int(line.split()[1]) for line in output.splitlines()} == expected


def test_c_header_names_are_unique():
    names = re.findall(r"^#define (\w+) ", c_header(load("sat32")), flags=re.M)
    assert len(set(names)) == len(names)


def test_json_says_what_the_table_says():
    arch = load("sat16")
    data = json.loads(register_json(arch))
    assert data["arch"] == "sat16"
    assert data["opcode"] == {row.opcode.name: row.opcode.value for row in TABLE.values()}
    assert {item["name"]: item["offset"] for item in data["registers"]} == {r.name: r.offset for r in REGISTERS}
    by_name = {item["name"]: item for item in data["registers"]}
    assert by_name["ARCH_HASH"]["reset"] == hash32(arch)
    assert [bits["name"] for bits in by_name["STATUS"]["bits"]] == ["cause", "engine"]
