"""The weight scratchpad: values and indices, read a word a cycle for all columns at once."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch import INDEX_BITS, Arch
from hwgen.arch.isa import Target
from hwgen.lib.pipeline import delay
from hwgen.lib.ram import Ram
from hwgen.lib.shapes import WORD_BITS, LoadBeat


class WeightScratchpad(wiring.Component):
    """`wgt_depth` words of `lanes` x `cols` operands, and as many words of indices (ISA.md, WGT and IDX).

    Timing
    ------
    `values` and `indices` are those of `address` `LATENCY` cycles later, one word a cycle. A beat of values is in
    memory 2 cycles after `load_valid`. The 4/lanes words of a beat of indices are written one a cycle: the last is in
    memory 1 + 4/lanes cycles after `load_valid`, and the next beat of indices is taken 4/lanes cycles later; beats of
    values go on meanwhile.

    Members
    -------
    load : In(LoadBeat), load_valid : In(1)   Beats for WGT and IDX; others are ignored.
    load_ready : Out(1)   The beat on `load` is taken in this cycle.
    address : In(20)
    values : Out(cols x lanes x 16), indices : Out(cols x lanes x 4)   Column 0 least significant, then lane 0.
    """

    LATENCY = 2

    def __init__(self, *, arch: Arch) -> None:
        self.arch = arch
        count = arch.array.cols * arch.array.lanes
        super().__init__(
            {
                "load": In(LoadBeat(arch)),
                "load_valid": In(1),
                "load_ready": Out(1),
                "address": In(WORD_BITS),
                "values": Out(16 * count),
                "indices": Out(INDEX_BITS * count),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """A memory for each lane's values, one for all indices."""
        m = Module()
        lanes, cols, depth = self.arch.array.lanes, self.arch.array.cols, self.arch.scratchpads.wgt_depth
        load = delay(m, self.load, 1, "load")
        is_value = delay(m, self.load_valid & (self.load.target == Target.WGT), 1, "is_value", reset=True)
        words = []
        for lane in range(lanes):
            m.submodules[f"lane_{lane}"] = memory = Ram(width=16 * cols, depth=depth)
            m.d.comb += [
                memory.write_address.eq(load.address),
                memory.write_data.eq(load.data),
                memory.write_enable.eq(is_value & (load.part == lane)),
                memory.read_address.eq(self.address),
            ]
            words.append(delay(m, memory.read_data, 1, f"values_{lane}"))
        parts = [words[lane].word_select(column, 16) for column in range(cols) for lane in range(lanes)]
        m.d.comb += self.values.eq(Cat(*parts))
        self._indices(m)
        return m

    def _indices(self, m: Module) -> None:
        """Hold a beat of indices and write it word by word."""
        lanes, cols, depth = self.arch.array.lanes, self.arch.array.cols, self.arch.scratchpads.wgt_depth
        words, width = 4 // lanes, INDEX_BITS * lanes * cols
        m.submodules.indices = memory = Ram(width=width, depth=depth)
        left, bits = Signal(range(words + 1)), Signal(words * width, reset_less=True)
        address, step = Signal(WORD_BITS, reset_less=True), Signal(WORD_BITS, reset_less=True)
        is_index = self.load.target == Target.IDX
        m.d.comb += self.load_ready.eq(~is_index | (left <= 1))
        with m.If(self.load_valid & is_index & self.load_ready):
            m.d.sync += [left.eq(words), bits.eq(self.load.data)]
            m.d.sync += [address.eq(self.load.address), step.eq(self.load.step)]
        with m.Elif(left != 0):
            m.d.sync += [left.eq(left - 1), bits.eq(bits[width:]), address.eq(address + step)]
        m.d.comb += [
            memory.write_address.eq(address),
            memory.write_data.eq(bits[:width]),
            memory.write_enable.eq(left != 0),
            memory.read_address.eq(self.address),
        ]
        chosen = delay(m, memory.read_data, 1, "chosen")
        places = [
            chosen.word_select(lane * cols + column, INDEX_BITS) for column in range(cols) for lane in range(lanes)
        ]
        m.d.comb += self.indices.eq(Cat(*places))
