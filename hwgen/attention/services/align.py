"""Pieces of rows, out of beats in which they start anywhere, as words of operands."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch.attention import ADDRESS_ALIGN, CHUNK, AttentionSizes
from hwgen.attention.services.words import quantizer_lanes

OPERAND_BYTES = 2
HEAD_CHUNKS = 8
"""A piece has up to 128 operands."""


class Piece(data.StructLayout):
    """A row of a head. offset : unit of 4 bytes of its first beat in which it starts. place, low_place : the same for
    the planes of its head. last : row of the head.
    """

    def __init__(self, sizes: AttentionSizes) -> None:
        unit = range(sizes.beat_bytes // ADDRESS_ALIGN)
        head = range(max(2, sizes.max_heads))
        super().__init__({"offset": unit, "head": head, "place": unit, "low_place": unit, "last": 1})


class PieceWord(data.StructLayout):
    """Operands of a piece. half : of 32 only the lower 16. last : of the last piece of a head."""

    def __init__(self, sizes: AttentionSizes) -> None:
        operands = data.ArrayLayout(8 * OPERAND_BYTES, quantizer_lanes(sizes))
        super().__init__({"operands": operands, "half": 1, "last": 1, "piece": Piece(sizes)})


class Aligner(wiring.Component):
    """Takes pieces and the beats that hold them; no two pieces share a beat.

    Timing
    ------
    A word and a beat a cycle; a word comes the cycle after the last beat that it needs.

    Parameters
    ----------
    sizes : AttentionSizes

    Members
    -------
    chunks : In(4)                   16 operands each, that a piece has.
    pieces : In(stream of Piece)
    beats : In(stream of beat)
    o : Out(stream of PieceWord)
    busy : Out(1)
    """

    def __init__(self, sizes: AttentionSizes) -> None:
        self._sizes, self._units = sizes, sizes.beat_bytes // ADDRESS_ALIGN
        self._word_units = quantizer_lanes(sizes) * OPERAND_BYTES // ADDRESS_ALIGN
        super().__init__(
            {
                "chunks": In(range(HEAD_CHUNKS + 1)),
                "pieces": In(stream.Signature(Piece(sizes))),
                "beats": In(stream.Signature(8 * sizes.beat_bytes)),
                "o": Out(stream.Signature(PieceWord(sizes))),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """A beat is held; a word needs it, or it and the next one."""
        m = Module()
        beat_bits, lanes = 8 * self._sizes.beat_bytes, quantizer_lanes(self._sizes)
        held, full = Signal(beat_bits, reset_less=True), Signal()
        begun, reached = Signal(), Signal(range(self._units))
        place, end = Signal.like(reached), Signal(range(2 * self._units))
        words, left, here = (Signal(range(HEAD_CHUNKS * CHUNK // lanes + 1), name=n) for n in ("words", "left", "here"))
        over, half, spans, drains, emit = (Signal(name=name) for name in ("over", "half", "spans", "drains", "emit"))
        room = ~self.o.valid | self.o.ready
        m.d.comb += [
            words.eq((self.chunks * CHUNK + lanes - 1) // lanes),
            here.eq(Mux(begun, left, words)),
            over.eq(here == 1),
            half.eq(over & ((self.chunks * CHUNK % lanes) != 0)),
            place.eq(Mux(begun, reached, self.pieces.payload.offset)),
            end.eq(place + Mux(half, self._word_units // 2, self._word_units)),
            spans.eq(end > self._units),
            drains.eq((end >= self._units) | over),
            emit.eq(full & self.pieces.valid & room & (self.beats.valid | ~spans)),
            self.beats.ready.eq(~full | (emit & (spans | drains))),
            self.pieces.ready.eq(emit & over),
            self.busy.eq(full | self.o.valid),
        ]
        came = self.beats.valid & self.beats.ready
        with m.If(came):
            m.d.sync += held.eq(self.beats.payload)
        with m.If(emit & spans):
            m.d.sync += full.eq(~over)
        with m.Elif(~full | (emit & drains)):
            m.d.sync += full.eq(came)
        with m.If(room):
            m.d.sync += self.o.valid.eq(emit)
        with m.If(emit):
            m.d.sync += [begun.eq(~over), left.eq(here - 1), reached.eq(end[: len(reached)])]
            word, piece = self.o.payload, self.pieces.payload
            m.d.sync += [word.half.eq(half), word.last.eq(over & piece.last), word.piece.eq(piece)]
            window = Cat(held, self.beats.payload)
            with m.Switch(place):
                for number in range(self._units):
                    with m.Case(number):
                        part = window[8 * ADDRESS_ALIGN * number :][: 16 * lanes]
                        m.d.sync += word.operands.eq(part)
        return m
