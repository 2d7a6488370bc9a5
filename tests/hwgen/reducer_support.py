"""What N:M reduction gives, value by value in plain Python."""


def kept(group: list[int], n: int) -> list[tuple[int, int]]:
    """Values and indices of the `n` largest magnitudes of a group of one column, in ascending index."""
    order = sorted(range(len(group)), key=lambda index: (-(group[index] & 0x7FFF), index))
    return [(group[index], index) for index in sorted(order[:n])]


def packed_beats(arch, words: list[list[int]], n: int, m: int) -> list[int]:
    """Beats that one sequence becomes; `words` are its beats, an operand for each column."""
    cols, lanes = arch.array.cols, arch.array.lanes
    slots = [[] for _ in range(cols)]
    for start in range(0, len(words), m):
        for col in range(cols):
            group = kept([word[col] for word in words[start : start + m]], n)
            slots[col] += group + [(0, 0)] * (-n % lanes)
    for col in range(cols):
        slots[col] += [(0, 0)] * (-len(slots[col]) % 4)
    beats = []
    for start in range(0, len(slots[0]), 4):
        quad = [[slots[col][start + i] for col in range(cols)] for i in range(4)]
        beats += [sum(value << 16 * col for col, (value, _) in enumerate(row)) for row in quad]
        places = {i * cols + col: index for i, row in enumerate(quad) for col, (_, index) in enumerate(row)}
        beats.append(sum(index << 4 * place for place, index in places.items()))
    return beats
