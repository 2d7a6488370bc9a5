"""What kernels get from the emitter: banks, chunks, regions for hazards."""

import dataclasses

import pytest

from hwgen.arch.isa import Operation
from scheduler.training.graph.ir import Kind, Tensor
from scheduler.training.kernels.emitter import Banks, Emitter
from scheduler.training.memory import MemoryMap
from tests.scheduler.training.machine_support import arch8


def with_banks(banks):
    pads = dataclasses.replace(arch8().scratchpads, acc_depth=1024 * banks, acc_banks=banks)
    return dataclasses.replace(arch8(), scratchpads=pads)


def bank(block):
    return block.addr // 1024


def feature(shape):
    return MemoryMap(arch8()).feature(Tensor("x", shape, Kind.ACTIVATION), "tensor")


def test_a_block_lies_apart_from_all_others_or_from_the_first():
    em = Emitter(with_banks(8))
    em.choose_banks(Banks.OTHERS)
    blocks = [em.take(2, 3)]
    for _ in range(2):
        blocks.append(em.take(2, 3, apart=blocks))
    assert len({bank(block) for block in blocks}) == 3
    for order in (blocks, blocks[::-1]):
        assert bank(em.take(2, 3, apart=order)) == bank(order[-1])


def test_a_full_bank_is_passed_over():
    em = Emitter(arch8())
    first = em.take(1, 1000)
    assert bank(em.take(1, 100, apart=em.take(1, 10, apart=first))) == bank(em.take(1, 10, apart=first))


@pytest.mark.parametrize(("banks", "kinds"), [(8, ({0, 1, 2}, {3, 4, 5}, {6, 7})), (4, ({0, 1}, {0, 1}, {0, 1}))])
def test_kinds_of_kernels_have_banks_of_their_own_if_there_are_enough(banks, kinds):
    em = Emitter(with_banks(banks))
    for kind, expected in zip(Banks, kinds, strict=True):
        em.choose_banks(kind)
        assert {bank(em.take(1, 1)) for _ in range(8)} == expected


def test_weight_gradients_and_what_is_kept_share_banks_but_no_words():
    em = Emitter(with_banks(8))
    em.choose_banks(Banks.GRADIENTS)
    taken = [em.take(1, 64) for _ in range(em.room(Banks.GRADIENTS, 64))]
    taken += [em.keep(1, 64) for _ in range(2 * (1024 // 2 // 64))] + [em.constant(1.0)]
    words = [word for block in taken for word in range(block.addr, block.addr + block.words)]
    assert len(words) == len(set(words))
    assert set(words) <= set(range(6 * 1024, 8 * 1024))


def chunk_banks(em, count):
    """Banks of the blocks of a chunk."""
    em.begin_chunk()
    return [bank(em.take(2, 3)) for _ in range(count)]


def test_chunks_of_few_blocks_begin_one_bank_behind_each_other():
    em = Emitter(with_banks(8))
    em.choose_banks(Banks.OTHERS)
    assert [chunk_banks(em, 2) for _ in range(4)] == [[3, 4], [4, 5], [5, 3], [3, 4]]
    assert [chunk_banks(em, 3)[0] for _ in range(3)] == [4, 5, 3]


def test_what_is_only_read_lies_in_idle_banks_until_there_are_weight_gradients():
    em = Emitter(with_banks(8))
    em.choose_banks(Banks.OTHERS)
    kept = [em.keep(1, 64) for _ in range(2)]
    sources = [em.take_source(1, 256) for _ in range(4)]
    words = [set(range(block.addr, block.addr + block.words)) for block in (*kept, *sources)]
    assert {bank(block) for block in sources[:3]} == {6, 7}
    assert sum(map(len, words)) == len(set().union(*words))
    em.choose_banks(Banks.GRADIENTS)
    em.choose_banks(Banks.OTHERS)
    assert {bank(em.take_source(1, 256)) for _ in range(3)} == {3, 4, 5}


def test_single_words_are_held_so_that_they_are_read_once():
    em = Emitter(arch8())
    block, words = em.take(5, 1), em.take(5, 1)
    em.vector(Operation.MAC, block, words, 2.0, 3.0)
    item = em.recorder.commands[0]
    assert (item.rows, item.words, item.x_hold) == (1, 5, 0)
    assert (item.y_stride, item.y_hold, item.z_stride, item.z_hold) == (0, 1, 0, 1)


def test_single_pixels_are_taken_together_over_image_blocks():
    em = Emitter(arch8())
    chunks = list(em.chunks(feature((50, 1, 1, 20)), 100))
    assert [(chunk.image, chunk.images) for chunk in chunks] == [(0, 32), (32, 18)]
    chunks = list(em.chunks(feature((50, 1, 2, 20)), 100))
    assert max(chunk.images for chunk in chunks) == 8


def test_chunks_without_gaps_are_one_row():
    em, x = Emitter(arch8()), feature((50, 1, 1, 20))
    for chunk in em.chunks(x, 100):
        em.put(x, chunk, em.fetch(x, chunk))
    assert [item.rows for item in em.recorder.commands] == [1, 1, 1, 1]
    assert [item.beats for item in em.recorder.commands[::2]] == [96, 54]


def test_regions_of_pixels():
    em, rows, pixels = Emitter(arch8()), feature((16, 3, 4, 8)), feature((50, 1, 1, 8))
    assert [size(em.region(rows, image, 1, 2), rows) for image in (0, 7, 8)] == [(1, 3), (1, 3), (4, 6)]
    assert size(em.region(rows, 0, 0, 3, images=9), rows) == (0, 6)
    assert size(em.pixels(rows, 12 + 4, 5), rows) == (1, 3)
    assert size(em.pixels(rows, 12 * 7 + 9, 6), rows) == (0, 6)
    assert size(em.pixels(pixels, 15, 18), pixels) == (1, 5)
    other = dataclasses.replace(pixels, span=7)
    assert size(em.pixels(other, 15, 1), other) == size(em.region(other, 3, 0, 1), other) == (0, 7)


def size(region, owner):
    return region.start - owner.unit, region.stop - owner.unit
