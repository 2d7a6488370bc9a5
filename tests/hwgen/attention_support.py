"""Words of elements for benches of the attention engine's parts."""

import numpy as np
from numpy.typing import NDArray

from hwgen.arch.attention import AttentionSizes
from hwgen.attention.words import ELEMENT_BITS, ElementWord


def random_elements(rng: np.random.Generator, bits: int, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Random numbers of `bits` bits, or only the extremes."""
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1
    return rng.choice([low, high], shape) if rng.random() < 0.2 else rng.integers(low, high + 1, shape)


def element_word(sizes: AttentionSizes, elements: NDArray[np.int64], **fields: int) -> int:
    """Bits of an `ElementWord`; elements that are left out are 0."""
    layout = ElementWord(sizes)
    whole = np.zeros(sizes.multipliers, "<i2")
    whole[: len(elements)] = elements
    bits = int.from_bytes(whole.tobytes(), "little") << layout["elements"].offset
    for name, value in fields.items():
        assert 0 <= value < 1 << layout[name].width, f"{name} = {value}"
        bits |= value << layout[name].offset
    return bits


def word_elements(sizes: AttentionSizes, bits: int) -> NDArray[np.int64]:
    """Elements of an `ElementWord`."""
    raw = bits >> ElementWord(sizes)["elements"].offset & (1 << ELEMENT_BITS * sizes.multipliers) - 1
    return np.frombuffer(raw.to_bytes(2 * sizes.multipliers, "little"), "<i2").astype(np.int64)


def row_words(
    sizes: AttentionSizes,
    rows: NDArray[np.int64],
    places: NDArray[np.integer] | None = None,
    *,
    single: bool = False,
    query: bool = False,
) -> list[int]:
    """The words of `rows` [n, D] in order; `places` [n]: their indices, 0 .. n - 1 if left out."""
    places = np.arange(len(rows)) if places is None else places
    (count, head_size), multipliers = rows.shape, sizes.multipliers
    slots, parts = sizes.slots(head_size), sizes.words_per_row(head_size)
    step = 1 if single else sizes.rows_per_word(head_size)
    words = []
    for start in range(0, count, step):
        group = rows[start : start + step]
        for part in range(parts):
            elements = np.zeros((len(group), multipliers if parts > 1 else slots), np.int64)
            own = group[:, part * multipliers : (part + 1) * multipliers]
            elements[:, : own.shape[1]] = own
            fields = {"index": int(places[start]), "rows": len(group), "part": part, "query": int(query)}
            last = int(start + step >= count and part == parts - 1)
            words.append(element_word(sizes, elements.reshape(-1), last=last, **fields))
    return words
