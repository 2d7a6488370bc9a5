"""VECTOR instructions in the form in which the vector engine does most in a cycle."""

from hwgen.arch.isa import READS_X, READS_Z, TABLE, Opcode

_LIMIT = next(item.limit for item in TABLE[Opcode.VECTOR].operands if item.name == "words")


def as_one_row(fields: dict[str, int]) -> dict[str, int]:
    """The operands of a VECTOR with its block as one row, if the words of d follow one another without a gap, and those
    of each source too, or are all the same; else the operands as they are.

    Only the last step of a row may have a single word, and a source that is one word throughout is read once.
    """
    rows, words = fields["rows"], fields["words"]
    if rows * words > _LIMIT:
        return fields
    operation = fields["operation"]
    names = "x" if operation in READS_X else "xyz" if operation in READS_Z else "xy"
    row = fields | {"rows": 1, "words": rows * words, "d_stride": 0}
    for name in names:
        stride, hold = fields[f"{name}_stride"], fields.get(f"{name}_hold", 0)
        same = (hold or words == 1) and (stride == 0 or rows == 1)
        gapless = (not hold or words == 1) and (stride == words or rows == 1)
        if not (same or gapless):
            return fields
        row |= {f"{name}_stride": 0, f"{name}_hold": int(not gapless)}
    return row if rows == 1 or fields["d_stride"] == words else fields
