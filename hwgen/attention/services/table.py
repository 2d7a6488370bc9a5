"""Beats of memory that a job looks things up in."""

from amaranth.hdl import Module, Value
from amaranth.lib.memory import Memory, ReadPort


def beat_table(m: Module, name: str, *, beats: int, clear: Value, beat: Value, valid: Value) -> ReadPort:
    """Keeps beats one behind the other, the first one behind `clear` at place 0.

    A port that reads a beat at once, from the cycle after it came on. The table is submodule `name` of `m`.
    """
    m.submodules[name] = memory = Memory(shape=len(beat), depth=max(2, beats), init=[])
    write, read = memory.write_port(), memory.read_port(domain="comb")
    with m.If(clear):
        m.d.sync += write.addr.eq(0)
    with m.Elif(write.en):
        m.d.sync += write.addr.eq(write.addr + 1)
    m.d.comb += [write.data.eq(beat), write.en.eq(valid)]
    return read
