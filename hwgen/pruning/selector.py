"""What selectors have in common: their ports, and how a vector arrives."""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.pruning.words import Command, Found, TopKSizes


class Selector(wiring.Component):
    """Finds the k-th largest score of a vector: takes a command and its scores, gives what to keep.

    The scores are written to a buffer of one read and one write port as they arrive and may be read from there until
    `found` is taken; the buffer is another one afterwards. In the cycle in which `found` is taken, word 0 is read.

    A bad command (length 0 or above the largest, k above the length) takes no scores and gives `found.error`.

    Parameters
    ----------
    sizes : TopKSizes

    Members
    -------
    command : In(stream of Command)
    scores : In(stream of width x bits)   Lane 0 of word 0 is element 0; lanes behind the last element do not count.
    found : Out(stream of Found)
    write_enable : Out(1), write_address : Out(address_bits), write_data : Out(width x bits)
    read_address : Out(address_bits)
    read_data : In(width x bits)          One cycle after its address.
    busy : Out(1)                         A call is under way.
    """

    def __init__(self, *, sizes: TopKSizes) -> None:
        self.sizes = sizes
        super().__init__(
            {
                "command": In(stream.Signature(Command(sizes))),
                "scores": In(stream.Signature(sizes.word_bits)),
                "found": Out(stream.Signature(Found(sizes))),
                "write_enable": Out(1),
                "write_address": Out(sizes.address_bits),
                "write_data": Out(sizes.word_bits),
                "read_address": Out(sizes.address_bits),
                "read_data": In(sizes.word_bits),
                "busy": Out(1),
            }
        )
        self.length = Signal(sizes.count_bits)
        """Elements of this call."""
        self.need = Signal(sizes.count_bits)
        """Elements to keep among those that are still candidates."""
        self.left = Signal(sizes.count_bits)
        """Elements of this pass that have not been seen."""
        self.word = Signal(sizes.address_bits)
        """Number of the word that comes next."""
        self.error = Signal()

    @property
    def last_word(self) -> Value:
        """The word that is there is the last of its pass."""
        return self.left <= self.sizes.width

    def begin_pass(self, m: Module, count: Value) -> None:
        """The next pass has `count` elements."""
        m.d.sync += [self.left.eq(count), self.word.eq(0)]

    def step_pass(self, m: Module) -> None:
        """A word of this pass has been seen."""
        m.d.sync += [
            self.left.eq(Mux(self.last_word, 0, self.left - self.sizes.width)),
            self.word.eq(self.word + 1),
        ]

    def take_command(self, m: Module, arrive: str, found: str) -> None:
        """State in which a command is taken; goes to state `arrive`, or to `found` with a bad one."""
        command = self.command.payload
        bad = (command.length == 0) | (command.length > self.sizes.max_length) | (command.k > command.length)
        m.d.comb += self.command.ready.eq(1)
        m.d.comb += self.busy.eq(0)
        self.begin_pass(m, command.length)
        m.d.sync += [self.length.eq(Mux(bad, 0, command.length)), self.need.eq(command.k), self.error.eq(bad)]
        with m.If(self.command.valid):
            m.next = arrive
            with m.If(bad):
                m.next = found

    def take_scores(self, m: Module, following: str) -> None:
        """State in which scores are written to the buffer; goes to state `following` after the last."""
        m.d.comb += [
            self.scores.ready.eq(1),
            self.write_enable.eq(self.scores.valid),
        ]
        with m.If(self.scores.valid):
            self.step_pass(m)
            with m.If(self.last_word):
                m.next = following

    def read_pass(self, m: Module, word: Value, following: str) -> None:
        """State in which the words of a pass are read, with `word`; goes to state `following` after the last."""
        m.d.comb += [word.eq(1), self.read_address.eq(self.word + 1)]
        self.step_pass(m)
        with m.If(self.last_word):
            m.next = following

    def connect_buffer(self, m: Module) -> None:
        """Write ports that do not depend on the state."""
        m.d.comb += [self.write_address.eq(self.word), self.write_data.eq(self.scores.payload), self.busy.eq(1)]

    def give_found(self, m: Module, threshold: Value, ties: Value, command: str) -> None:
        """State in which the result is offered; goes to state `command` when it is taken."""
        found = self.found.payload
        m.d.comb += [
            self.found.valid.eq(1),
            found.threshold.eq(threshold),
            found.ties.eq(ties),
            found.length.eq(self.length),
            found.error.eq(self.error),
        ]
        with m.If(self.found.ready):
            m.next = command
