"""One array row: its activation bank, its place in the command chain, and its processing elements."""

from amaranth.hdl import Cat, Module, Mux, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch import Arch
from hwgen.array.bank import ActivationBank
from hwgen.array.element import ProcessingElement
from hwgen.array.words import CommandLayout, ControlLayout, ElementShape, WeightLayout, hop_limit
from hwgen.lib.pipeline import VariableDelay, delay
from hwgen.lib.shapes import LoadBeat
from hwgen.lib.shared import Shared


class ElementRow(wiring.Component):
    """`cols` processing elements side by side.

    Timing
    ------
    Element c sees control and activations c cycles later than element 0; weights and sums must be skewed alike.

    Parameters
    ----------
    shape : ElementShape
    cols : int

    Members
    -------
    i_act : In, i_control : In(ControlLayout)                   west edge
    i_weight, o_weight : In/Out(cols x WeightLayout)            north and south edges, column 0 least significant
    i_sum, o_sum : In/Out(cols x links x 32)
    """

    def __init__(self, *, shape: ElementShape, cols: int) -> None:
        self.shape, self.cols = shape, cols
        self.weight_bits = WeightLayout(shape).size
        super().__init__(
            {
                "i_act": In(shape.act_bits),
                "i_control": In(ControlLayout(shape)),
                "i_weight": In(self.weight_bits * cols),
                "o_weight": Out(self.weight_bits * cols),
                "i_sum": In(32 * shape.links * cols),
                "o_sum": Out(32 * shape.links * cols),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Chain the elements from west to east."""
        m = Module()
        act, control = self.i_act, self.i_control
        weights, sums = [], []
        for column in range(self.cols):
            m.submodules[f"element_{column}"] = element = Shared(ProcessingElement, shape=self.shape)
            m.d.comb += [
                element.i_act.eq(act),
                element.i_control.eq(control),
                element.i_weight.eq(self.i_weight.word_select(column, self.weight_bits)),
                element.i_sum.eq(self.i_sum.word_select(column, 32 * self.shape.links)),
            ]
            act, control = element.o_act, element.o_control
            weights.append(element.o_weight)
            sums.append(element.o_sum)
        m.d.comb += [self.o_weight.eq(Cat(*weights)), self.o_sum.eq(Cat(*sums))]
        return m


class RowHead(wiring.Component):
    """Turns row commands into control of one row, reads its activation bank, and passes the commands on.

    Timing
    ------
    Control reaches the row `LATENCY` cycles after the command, with fields delayed to their pipeline stages;
    `o_command` is `i_command` `hop` cycles later. The row drains on link `row` mod `links`.

    Parameters
    ----------
    arch : Arch

    Members
    -------
    row : In             Number of the row.
    hop : In             Cycles between this row and the next.
    i_command, o_command : In/Out(CommandLayout)
    load : In(LoadBeat), load_valid : In(1)   A beat for the activation banks.
    act : Out, control : Out(ControlLayout)   To the row's first element.
    """

    LATENCY = 2

    def __init__(self, *, arch: Arch) -> None:
        self.arch, self.shape = arch, ElementShape.of(arch)
        command = CommandLayout(arch)
        super().__init__(
            {
                "row": In(arch.row_bits),
                "hop": In(range(hop_limit(arch) + 1)),
                "i_command": In(command),
                "o_command": Out(command),
                "load": In(LoadBeat(arch)),
                "load_valid": In(1),
                "act": Out(self.shape.act_bits),
                "control": Out(ControlLayout(self.shape)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Bank, command chain, stage alignment."""
        m = Module()
        arch, load = self.arch, self.load
        m.submodules.bank = bank = Shared(
            ActivationBank,
            cols=arch.array.cols,
            depth=arch.scratchpads.act_depth,
            act_width=self.shape.act_width,
            row_bits=arch.row_bits,
        )
        m.submodules.chain = chain = Shared(VariableDelay, width=self.i_command.shape().size, limit=hop_limit(arch))
        m.d.comb += [
            bank.row.eq(self.row),
            bank.write.eq(self.load_valid),
            bank.word.eq(load.address),
            *(getattr(bank, name).eq(load[name]) for name in ("whole", "chunk_log2", "bank", "position", "data")),
            bank.address.eq(self.i_command.act_addr),
            self.act.eq(bank.o),
            chain.i.eq(self.i_command),
            chain.cycles.eq(self.hop),
            self.o_command.eq(chain.o),
        ]
        self._align(m)
        return m

    def _align(self, m: Module) -> None:
        """Delay each field to the stage that uses it: `LATENCY` for the bank, then read and write stages."""
        command, control = self.i_command, self.control
        fetch = delay(m, Cat(command.fetch, command.act_word), self.LATENCY, "fetch")
        beat = Cat(command.base, command.mask, command.dense, command.stationary, command.slot)
        drain = delay(m, self._drain(), self.LATENCY, "drain")
        read = delay(m, Cat(command.source, command.sum), self.LATENCY + self.shape.read_stage, "read")
        results = Cat(command.keep, command.leave, command.emit)
        write = delay(m, Cat(results, command.sum), self.LATENCY + self.shape.write_stage, "write")
        m.d.comb += [
            Cat(control.act_write, control.act_word).eq(fetch),
            Cat(control.base, control.mask, control.dense, control.stationary, control.slot).eq(
                delay(m, beat, self.LATENCY, "beat")
            ),
            Cat(control.source, control.held).eq(read),
            Cat(control.keep, control.leave, control.emit, control.target).eq(write),
            Cat(control.drain, control.drained).eq(drain),
        ]

    def _drain(self) -> Value:
        """Fields `drain` and `drained` of this row, from those of all rows that drain together."""
        command = self.i_command
        if self.shape.links == 1:
            return Cat(command.drain & (command.drain_row == self.row), command.drained)
        odd, mine = self.row[0], command.drain_row == self.row[1:]
        drain = Cat(command.drain[0] & mine & ~odd, command.drain[1] & mine & odd)
        return Cat(drain, Mux(odd, command.drained[1], command.drained[0]))
