"""The weight scratchpad: values and indices, read a word a cycle for all columns at once."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch import INDEX_BITS, Arch
from hwgen.arch.isa import Target
from hwgen.lib.pipeline import delay, select_part
from hwgen.lib.ram import Ram
from hwgen.lib.shapes import WORD_BITS, LoadBeat


class WeightScratchpad(wiring.Component):
    """`wgt_depth` words of `lanes` x `cols` operands, and as many words of indices (ISA.md, WGT and IDX).

    Timing
    ------
    `values` and `indices` are those of `address` `LATENCY` cycles later, one word a cycle. A beat is in memory two
    cycles after `load_valid`.

    Members
    -------
    load : In(LoadBeat), load_valid : In(1)   Beats for WGT and IDX; others are ignored.
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
                "address": In(WORD_BITS),
                "values": Out(16 * count),
                "indices": Out(INDEX_BITS * count),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """A memory for each lane's values, one for all indices, whose words hold several index words."""
        m = Module()
        lanes, cols, depth = self.arch.array.lanes, self.arch.array.cols, self.arch.scratchpads.wgt_depth
        load = delay(m, self.load, 1, "load")
        is_value = delay(m, self.load_valid & (self.load.target == Target.WGT), 1, "is_value", reset=True)
        is_index = delay(m, self.load_valid & (self.load.target == Target.IDX), 1, "is_index", reset=True)
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
        self._indices(m, load, is_index)
        return m

    def _indices(self, m: Module, load: object, is_index: Signal) -> None:
        lanes, cols, depth = self.arch.array.lanes, self.arch.array.cols, self.arch.scratchpads.wgt_depth
        per_beat = 4 // lanes
        part_bits = per_beat.bit_length() - 1
        width = INDEX_BITS * lanes * cols
        m.submodules.indices = memory = Ram(width=16 * cols, depth=depth // per_beat)
        part = delay(m, self.address[: max(1, part_bits)], 1, "part")
        m.d.comb += [
            memory.write_address.eq(load.address[part_bits:]),
            memory.write_data.eq(load.data),
            memory.write_enable.eq(is_index),
            memory.read_address.eq(self.address[part_bits:]),
        ]
        chosen = delay(m, select_part(m, memory.read_data, part, width) if part_bits else memory.read_data, 1, "chosen")
        bits = [chosen.word_select(lane * cols + column, INDEX_BITS) for column in range(cols) for lane in range(lanes)]
        m.d.comb += self.indices.eq(Cat(*bits))
