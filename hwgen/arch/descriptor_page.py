"""The generated part of DESCRIPTORS.md: what lies in memory beside programs."""

from hwgen.arch.attention import JOB, JOB_BYTES, RECORD, RECORD_BYTES
from hwgen.arch.fields import Field
from hwgen.arch.markdown import bit_range, codes, table
from hwgen.arch.services import SERVICE_BYTES, SERVICES


def _section(title: str, size: int, fields: tuple[Field, ...]) -> list[str]:
    rows, place = [], 0
    for item in fields:
        values = f"{item.low}-{item.limit}" if item.choices is None else codes(item.choices)
        rows.append((bit_range(place, item.width), f"`{item.name}`", values, item.doc))
        place += item.width
    rows.append((bit_range(place, 8 * size - place), "", "0", "reserved"))
    return [
        f"### {title}",
        "",
        f"{size} bytes, little-endian.",
        "",
        *table(("bits", "field", "range", "meaning"), rows),
    ]


def descriptors_block() -> str:
    """Field tables of the attention job, of a head record, and of the other jobs."""
    lines = _section("Job", JOB_BYTES, JOB) + _section("Head record", RECORD_BYTES, RECORD)
    for job, fields in SERVICES.items():
        if fields:
            lines += _section(job.name, SERVICE_BYTES, fields)
    return "\n".join(lines)
