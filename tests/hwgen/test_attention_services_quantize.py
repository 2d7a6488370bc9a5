"""QUANTIZE on RTL against the golden model: every bit width, place and stride; heads that are gone; rate."""

import numpy as np
import pytest

from hwgen.arch.attention import PLANE_BITS, QUERY_BITS
from hwgen.arch.services import Job
from models.attention_engine.planes import row_bytes
from models.formats import CORNERS_BF16, CORNERS_FP16, encode
from tests.core_support import timing
from tests.hwgen.services_support import BASES, OPERANDS, SIZES, State, compare, fields_of

pytestmark = pytest.mark.verilator


def random_fields(rng: np.random.Generator, name: str, **choices: int) -> dict[str, int]:
    """Planes and rows with gaps, from any multiple of 4 bytes on."""
    split, most = int(rng.integers(2)), SIZES[name].max_heads
    group = int(rng.choice([1, rng.integers(1, most + 1)]))
    fields = {
        "rows": int(rng.choice([1, 2, 3, rng.integers(1, 40)])),
        "heads": int(rng.integers(1, most // group + 1)),
        "group": group,
        "head_size": 16 * int(rng.integers(1, 9)),
        "split": split,
        "bits": int(rng.choice(PLANE_BITS if split else QUERY_BITS)),
    } | choices
    gaps = [4 * int(rng.integers(20)) * int(rng.integers(2)) for _ in range(6)]
    fields["src_stride"] = fields["heads"] * fields["head_size"] * 2 + gaps[0]
    fields["msb_stride"] = fields["rows"] * row_bytes(fields["head_size"], fields["bits"]) + gaps[1]
    fields["low_stride"] = fields["rows"] * row_bytes(fields["head_size"], 4) + gaps[2]
    for name, gap in zip(("src_addr", "msb_addr", "low_addr"), gaps[3:]):
        fields[name] = BASES[name] + gap
    return fields_of(Job.QUANTIZE, **fields)


def contents_of(rng: np.random.Generator, name: str, fields: dict[str, int]) -> dict[int, bytes]:
    """Operands, corner values among them; inverse steps; what is in the planes before."""
    sizes, operand = SIZES[name], OPERANDS[name]
    count = (fields["rows"] * fields["src_stride"] + 512) // 2
    bits = encode(rng.normal(0, 3, count).astype(np.float32), operand)
    corners = CORNERS_FP16 if operand == "fp16" else CORNERS_BF16
    places = rng.random(count) < 0.05
    bits[places] = rng.choice(corners, places.sum())
    steps = rng.uniform(0.5, 3000, sizes.max_heads).astype("<f4")

    def rubbish(stride: str) -> bytes:
        return rng.bytes(fields["heads"] * fields[stride] + 512)

    return {
        BASES["src_addr"]: bits.astype("<u2").tobytes(),
        BASES["steps_addr"]: steps.tobytes(),
        BASES["msb_addr"]: rubbish("msb_stride"),
        BASES["low_addr"]: rubbish("low_stride"),
    }


def traffic(fields: dict[str, int], beat: int, alive: int) -> tuple[int, int]:
    """Beats: descriptor, steps and every row of every head that a living one needs; planes of a head without gaps."""
    reads, writes, row = max(1, 64 // beat) + -(-4 * fields["heads"] // beat), 0, 2 * fields["head_size"]

    def touched(address: int, size: int) -> int:
        return (address + size - 1) // beat - address // beat + 1

    queries = (1 << fields["group"]) - 1
    for head in (head for head in range(fields["heads"]) if alive >> head * fields["group"] & queries):
        first = fields["src_addr"] + head * row
        reads += sum(touched(first + number * fields["src_stride"], row) for number in range(fields["rows"]))
        for name, bits in (("msb", fields["bits"]), ("low", 4))[: 1 + fields["split"]]:
            address = fields[f"{name}_addr"] + head * fields[f"{name}_stride"]
            writes += touched(address, fields["rows"] * row_bytes(fields["head_size"], bits))
    return reads, writes


@pytest.mark.parametrize("name", SIZES)
def test_random_jobs(name, seed):
    for case in range(60 if name != "64" else 25):
        rng = np.random.default_rng([seed, case])
        fields = random_fields(rng, name)
        state = State.drawn(rng, SIZES[name])
        print(f"case {case}: {fields}, alive {state.alive:b}")
        run = compare(name, Job.QUANTIZE, fields, contents_of(rng, name, fields), state, **timing(rng, case))
        assert (run.read_beats, run.write_beats) == traffic(fields, SIZES[name].beat_bytes, state.alive)
