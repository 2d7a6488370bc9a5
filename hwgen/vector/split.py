"""Words of a step on the ports of the accumulator scratchpad: two consecutive words lie in different halves."""

from dataclasses import dataclass

from amaranth.hdl import C, Cat, Mux, Value


@dataclass(frozen=True)
class Share:
    """What a port does in a step: the word's address, and a bit for each word of the step that it is."""

    address: Value
    words: Value


def shares(address: Value, pair: Value, hold: Value, pace: int) -> list[Share]:
    """Shares of `pace` ports, 1 or 2; of two, port h has the addresses that are h modulo 2.

    The step's words are `address`, and if `pair` the one after it, or with `hold` the same one again.
    """
    if pace == 1:
        return [Share(address, C(1, 1))]
    odd = address[0]
    places = [address + odd, Cat(C(1, 1), address[1:])]
    return [Share(place, Cat(odd == half, pair & ((odd ^ ~hold) == half))) for half, place in enumerate(places)]


def last_word(address: Value, pair: Value, hold: Value) -> Value:
    """Address of the last word of a step if that is even, else one of its words, so that both are in range or not."""
    return Mux(pair & ~hold, address + address[0], address)
