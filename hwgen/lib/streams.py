"""Small stream blocks that every engine can use; all of them keep the four stream rules of Amaranth.

A payload stays on the output, with `valid`, until it is taken; `valid` never waits for `ready`.
The one exception is `clear`, which empties a block at the start of a run, when nobody listens.
"""

from amaranth.hdl import Module, ShapeLike, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out


class Queue(wiring.Component):
    """First-in first-out queue in distributed memory.

    Timing
    ------
    An item written into an empty queue is readable 1 cycle later. One item a cycle in and out at the same time, also
    when full is one cycle away; `i.ready` does not depend on `o.ready`, nor `o.valid` on `i.valid`.

    Parameters
    ----------
    shape : ShapeLike   Items.
    depth : int         Items it holds, at least 2.

    Members
    -------
    i : In(stream of shape)
    o : Out(stream of shape)
    level : Out(range(depth + 1))   Items held.
    clear : In(1)                   Forget everything; an item offered in this cycle is lost.
    """

    LATENCY = 1

    def __init__(self, *, shape: ShapeLike, depth: int) -> None:
        if depth < 2:
            raise ValueError(f"Queue depth must be at least 2, not {depth!r}")
        self._shape = shape
        self._depth = depth
        super().__init__(
            {
                "i": In(stream.Signature(shape)),
                "o": Out(stream.Signature(shape)),
                "level": Out(range(depth + 1)),
                "clear": In(1),
            }
        )

    @property
    def depth(self) -> int:
        """Items it holds."""
        return self._depth

    def elaborate(self, platform: object) -> Module:
        """Two pointers into a memory with an asynchronous read port, and a count."""
        m = Module()
        m.submodules.storage = storage = memory.Memory(shape=self._shape, depth=self._depth, init=[])
        write, read = storage.write_port(), storage.read_port(domain="comb")
        do_write = self.i.valid & self.i.ready
        do_read = self.o.valid & self.o.ready

        m.d.comb += [
            self.i.ready.eq(self.level != self._depth),
            self.o.valid.eq(self.level != 0),
            self.o.payload.eq(read.data),
            write.data.eq(self.i.payload),
            write.en.eq(do_write),
        ]

        for fired, pointer in ((do_write, write.addr), (do_read, read.addr)):
            position = Signal(range(self._depth))
            m.d.comb += pointer.eq(position)
            with m.If(fired):
                m.d.sync += position.eq(position + 1)
                with m.If(position == self._depth - 1):
                    m.d.sync += position.eq(0)
            with m.If(self.clear):
                m.d.sync += position.eq(0)

        m.d.sync += self.level.eq(self.level + do_write - do_read)
        with m.If(self.clear):
            m.d.sync += self.level.eq(0)
        return m


class SkidBuffer(wiring.Component):
    """Register slice that cuts the paths of payload, `valid` and `ready` between two sides.

    Timing
    ------
    Latency 1 cycle, one item a cycle. Holds two items when the output stalls.

    Parameters
    ----------
    shape : ShapeLike   Items.

    Members
    -------
    i : In(stream of shape)
    o : Out(stream of shape)
    """

    LATENCY = 1

    def __init__(self, *, shape: ShapeLike) -> None:
        self._shape = shape
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform: object) -> Module:
        """Output register plus a spare one for the item that arrives in the cycle in which the output stalls."""
        m = Module()
        spare = Signal(self._shape, reset_less=True)
        spare_full = Signal()
        front = Signal(self._shape, reset_less=True)
        front_full = Signal()
        m.d.comb += [
            self.i.ready.eq(~spare_full),
            self.o.valid.eq(front_full),
            self.o.payload.eq(front),
        ]
        with m.If(~front_full | self.o.ready):
            m.d.sync += [
                front_full.eq(spare_full | self.i.valid),
                spare_full.eq(0),
            ]
            with m.If(spare_full):
                m.d.sync += front.eq(spare)
            with m.Else():
                m.d.sync += front.eq(self.i.payload)
        with m.Elif(self.i.valid & self.i.ready):
            m.d.sync += [spare.eq(self.i.payload), spare_full.eq(1)]
        return m
