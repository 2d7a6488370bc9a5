"""The unified sparse processing element (USPE): dense and N:M products, output or weight stationary."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hwgen.array.words import ControlLayout, ElementShape, Source, WeightLayout, index_width
from hwgen.fp.add import FpAdd
from hwgen.fp.formats import BF16, FP16
from hwgen.fp.multiply import FpMultiply
from hwgen.lib.pipeline import delay
from hwgen.lib.shared import Shared


class ProcessingElement(wiring.Component):
    """Takes `lanes` products a cycle and adds them to one of `sums` accumulators, in order, one rounding each.

    Activations of a group wait in a ring buffer; the weight's index chooses among them. Weights stream past (output
    stationary) or wait in the weight buffer (weight stationary), whose sums come from the north and leave to the south.
    There is no flow control: everything is decided when a beat enters the array.

    Timing
    ------
    A beat's sum is read `read_stage` and written `write_stage` cycles after its control; the same sum can be used by a
    beat `chain_latency` cycles later (through FORWARD) or more (HELD). All links have one register. A sum emitted
    to the south is on `o_sum` `write_stage + 1` cycles after its control.
    Sums emitted move on link 0; finished ones are drained on any of `links`.

    Parameters
    ----------
    shape : ElementShape

    Members
    -------
    i_act, o_act : In/Out(act_width operands)     activation word moving east
    i_control, o_control : In/Out(ControlLayout)  control moving east
    i_weight, o_weight : In/Out(WeightLayout)     weights moving south
    i_sum, o_sum : In/Out(links x 32)             sums moving south, link 0 least significant
    """

    def __init__(self, *, shape: ElementShape) -> None:
        self.shape = shape
        control, weight = ControlLayout(shape), WeightLayout(shape)
        super().__init__(
            {
                "i_act": In(shape.act_bits),
                "o_act": Out(shape.act_bits),
                "i_control": In(control),
                "o_control": Out(control),
                "i_weight": In(weight),
                "o_weight": Out(weight),
                "i_sum": In(32 * shape.links),
                "o_sum": Out(32 * shape.links),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Links, operand selection, adder chain, sums."""
        m = Module()
        m.d.comb += [
            self.o_act.eq(delay(m, self.i_act, 1, "act")),
            self.o_control.eq(delay(m, self.i_control, 1, "control")),
            self.o_weight.eq(delay(m, self.i_weight, 1, "weight")),
            self.o_weight.row.eq(delay(m, self.i_weight.row - 1, 1, "row")[: self.shape.row_bits]),
        ]
        values, indices = self._weights(m)
        activations = self._activations(m, indices)
        products = self._multiply(m, activations, values)
        addend = Signal(32)
        total = self._add(m, addend, products)
        self._sums(m, addend, total)
        return m

    def _weights(self, m: Module) -> tuple[list, list]:
        """Choose streamed or stationary weights of this cycle: values and indices of every lane."""
        shape, control = self.shape, self.i_control
        width = shape.lanes * 20
        m.submodules.weights = memory = Memory(shape=unsigned(width), depth=shape.weight_slots, init=[])
        write, read = memory.write_port(), memory.read_port(domain="comb")
        streamed, chosen = Signal(width), Signal(width)
        m.d.comb += [
            streamed.eq(self.i_weight.as_value()[:width]),
            write.addr.eq(self.i_weight.slot),
            write.data.eq(streamed),
            write.en.eq(self.i_weight.load & (self.i_weight.row == 0)),
            read.addr.eq(control.slot),
            chosen.eq(Mux(control.stationary, read.data, streamed)),
        ]
        indices = []
        for lane in range(shape.lanes):
            index = Signal(4, name=f"index_{lane}")
            stored = chosen[16 * shape.lanes + 4 * lane :][:4]
            m.d.comb += index.eq(Mux(control.dense, lane, stored))
            indices.append(index)
        return [chosen.word_select(lane, 16) for lane in range(shape.lanes)], indices

    def _activations(self, m: Module, indices: list) -> list:
        """Read one activation per lane from the ring: element (base + index) within the ring's address bits."""
        shape, control = self.shape, self.i_control
        words = shape.act_buffer // shape.act_width
        m.submodules.ring = memory = Memory(shape=unsigned(shape.act_bits), depth=words, init=[])
        write = memory.write_port()
        m.d.comb += [write.addr.eq(control.act_word), write.data.eq(self.i_act), write.en.eq(control.act_write)]
        chosen = []
        for lane, index in enumerate(indices):
            read = memory.read_port(domain="comb")
            element = Signal(index_width(shape.act_buffer), name=f"element_{lane}")
            sub_bits = (shape.act_width - 1).bit_length()
            moved = (control.base + index)[: len(element)]
            m.d.comb += [
                element.eq((moved & control.mask) | (control.base & ~control.mask)),
                read.addr.eq(element[sub_bits:]),
            ]
            # Not `word_select`, whose multiplication by 16 would stand in the Verilog.
            chosen.append(read.data.bit_select(Cat(Const(0, 4), element[:sub_bits]), 16))
        return chosen

    def _multiply(self, m: Module, activations: list, values: list) -> list:
        """Register the operands and multiply; lane l's product is delayed until lanes 0..l-1 have been added."""
        shape = self.shape
        products = []
        for lane, (activation, value) in enumerate(zip(activations, values, strict=True)):
            a, w = delay(m, activation, 1, f"a_{lane}"), delay(m, value, 1, f"w_{lane}")
            fmt = {"fp16": FP16, "bf16": BF16}[shape.operand]
            m.submodules[f"multiply_{lane}"] = multiply = Shared(FpMultiply, fmt=fmt, latency=shape.mul_latency)
            m.d.comb += [multiply.a.eq(a), multiply.b.eq(w)]
            products.append(delay(m, multiply.o, lane * shape.add_latency, f"product_{lane}"))
        return products

    def _add(self, m: Module, addend: Signal, products: list) -> object:
        """Chain the lanes' adders, so that addends are taken in ascending order."""
        total = addend
        for lane, product in enumerate(products):
            # Sums of FP16 products are never subnormal, but sums that a program loads and continues may be.
            adder = Shared(FpAdd, latency=self.shape.add_latency)
            m.submodules[f"add_{lane}"] = adder
            m.d.comb += [adder.a.eq(total), adder.b.eq(product)]
            total = adder.o
        return total

    def _sums(self, m: Module, addend: Signal, total: object) -> None:
        """Keep sums, buffer finished ones until they are drained, and drive the south link."""
        control = self.i_control
        m.submodules.held = held = Memory(shape=unsigned(32), depth=self.shape.sums, init=[])
        m.submodules.finished = finished = Memory(shape=unsigned(32), depth=self.shape.sums, init=[])
        for memory, enable in ((held, control.keep), (finished, control.leave)):
            write = memory.write_port()
            m.d.comb += [write.addr.eq(control.target), write.data.eq(total), write.en.eq(enable)]
        sums, results = held.read_port(domain="comb"), finished.read_port(domain="comb")
        m.d.comb += [sums.addr.eq(control.held), results.addr.eq(control.drained)]
        with m.Switch(control.source):
            with m.Case(Source.ZERO):
                m.d.comb += addend.eq(0)
            with m.Case(Source.HELD):
                m.d.comb += addend.eq(sums.data)
            with m.Case(Source.NORTH):
                m.d.comb += addend.eq(self.i_sum[:32])
            with m.Case(Source.FORWARD):
                m.d.comb += addend.eq(total)
        passed = [Mux(control.emit, total, self.i_sum[:32])]
        passed += [self.i_sum.word_select(link, 32) for link in range(1, self.shape.links)]
        south = [Mux(control.drain[link], results.data, word) for link, word in enumerate(passed)]
        m.d.comb += self.o_sum.eq(delay(m, Cat(*south), 1, "south"))
