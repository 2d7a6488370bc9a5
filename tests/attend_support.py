"""Programs with ATTEND for the tests: memory images, jobs and products, put together piece by piece."""

import numpy as np

from hwgen.arch import INSTRUCTION_BYTES, load
from hwgen.arch.attention import JOB, JOB_BYTES, KeyMode, pack
from hwgen.arch.commands import command, encode
from hwgen.arch.isa import Dataflow, Format, Opcode, Operation, Target
from hwgen.arch.services import SERVICE_BYTES, SERVICES, Job, Score, pack_service
from sim.random.dependencies import Access, Step, with_tokens
from sim.runner import run_on
from tests.models.attention_engine.support import BASES, SPAN, Layer, random_layer

ARCH = load("tiny_attention")
SIZES, BEAT = ARCH.attention, ARCH.beat_bytes
TIMEOUT = 400_000
PAGE = 1 << 12
"""Bytes of memory that each part of a job has to itself."""
ROWS, COLS, GROUPS = 4, 16, 20
"""Of the product whose result is the queries of a job."""


class Draft:
    """A memory image and steps, put together piece by piece."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng, self.image, self.steps = rng, bytearray(), []

    def put(self, data: bytes) -> int:
        """Address of `data`, which is given room to the next page."""
        address = len(self.image)
        self.image += data + bytes(-len(data) % PAGE)
        return address

    def step(self, opcode, reads=(), writes=(), **fields) -> None:
        accesses = [[Access(*access) for access in found] for found in (reads, writes)]
        self.steps.append(Step(command(opcode, **fields), *accesses))

    def product(self, number: int) -> int:
        """A product whose result is stored; gives its address."""
        act, wgt, acc = 40 * number, 40 * number, 16 * number
        values = self.rng.standard_normal(ROWS * 24 + COLS * GROUPS).astype(np.float16)
        source, result = self.put(values.tobytes()), self.put(bytes(ROWS * COLS * 2))
        weights = source + ROWS * 24 * 2
        size = ROWS * 24 * 2
        rows = {"rows": ROWS, "beats": 3, "row_stride": 48}
        self.step(
            Opcode.LOAD, [("dram", source, source + size)], [("act", act, act + 3)],
            target=Target.ACT_ROWS, addr=act, dram_addr=source, **rows,
        )  # fmt: skip
        words = 2 * GROUPS
        self.step(
            Opcode.LOAD, [("dram", weights, weights + words * BEAT)], [("wgt", wgt, wgt + words)],
            target=Target.WGT, addr=wgt, beats=words, dram_addr=weights,
        )  # fmt: skip
        result_words = {"acc_addr": acc, "acc_stride": 2, "act_addr": act, "wgt_addr": wgt}
        self.step(
            Opcode.TENSOR, [("act", act, act + 3), ("wgt", wgt, wgt + words)], [("acc", acc, acc + 8)],
            dataflow=Dataflow.OUTPUT_STATIONARY, first=1, last=1, tile_cols=2, groups=GROUPS, rows=ROWS, **result_words,
        )  # fmt: skip
        self.store(acc, ROWS, 2, result)
        return result

    def store(self, acc: int, rows: int, words: int, address: int) -> None:
        size = rows * words * BEAT
        self.step(
            Opcode.STORE, [("acc", acc, acc + rows * words)], [("dram", address, address + size)],
            format=Format.OPERAND, lanes=8, addr=acc, stride=words, rows=rows, words=words,
            dram_addr=address, row_stride=words * BEAT,
        )  # fmt: skip

    def attention(self, acc: int, queries_at: int | None, keys_at: int | None = None, **choices) -> None:
        """A job, whose queries are at `queries_at` or drawn here, keys and values at `keys_at`; its outputs are doubled
        and stored.
        """
        layer = draw_layer(self.rng, **choices)
        images = layer.images(SIZES)
        places = {name: self.put(images[base * SPAN]) for name, base in BASES.items() if base * SPAN in images}
        places |= {} if queries_at is None else {"q": queries_at}
        places |= {} if keys_at is None else {"k": keys_at, "v": keys_at}
        job = layer.job | {f"{name}_addr": place for name, place in places.items()}
        address = self.put(pack(JOB, JOB_BYTES, job))
        out, size = places["out"], job["queries"] * job["out_stride"]
        reads = [("dram", place, place + PAGE) for name, place in places.items() if name != "out"]
        self.step(
            Opcode.ATTEND, [*reads, ("dram", address, address + JOB_BYTES)], [("dram", out, out + size)],
            job=Job.ATTENTION, addr=address,
        )  # fmt: skip
        self.consume(acc, out, size // BEAT)

    def consume(self, acc: int, out: int, words: int) -> None:
        words = min(words, 32)
        self.step(
            Opcode.LOAD, [("dram", out, out + words * BEAT)], [("acc", acc, acc + words)],
            target=Target.ACC16, addr=acc, beats=words, dram_addr=out,
        )  # fmt: skip
        block = [("acc", acc, acc + words)]
        places = {"x_addr": acc, "y_addr": acc, "d_addr": acc}
        self.step(Opcode.VECTOR, block, block, operation=Operation.ADD, words=words, **places)
        self.store(acc, 1, words, self.put(bytes(words * BEAT)))

    def service(self, job: Job, reads=(), writes=(), **fields) -> None:
        """A job beside attention; fields that are not given have their lowest value."""
        address = self.put(pack_service(job, {item.name: item.low for item in SERVICES[job]} | fields))
        spans = [("dram", start, start + size) for start, size in ((address, SERVICE_BYTES), *reads)]
        self.step(
            Opcode.ATTEND, spans, [("dram", start, start + size) for start, size in writes], job=job, addr=address
        )

    def tokens_course(self, stored: int) -> None:
        """The rows of a product become planes; attention over them says which two go on; their rows are copied."""
        rows, size, row = ROWS, COLS, COLS * 2
        plane = self.put(bytes(rows * size))
        steps = self.put(np.float32([4 * self.rng.uniform(1, 4)]).tobytes())
        places = {"src_addr": stored, "src_stride": row, "steps_addr": steps, "msb_addr": plane}
        self.service(
            Job.QUANTIZE, [(stored, rows * row), (steps, 4)], [(plane, rows * size)],
            rows=rows, heads=1, head_size=size, bits=8, **places,
        )  # fmt: skip
        shape = {"heads": 1, "group": 1, "queries": rows, "keys": rows, "masked": 0, "causal": 0}
        bits = {"query_bits": 8, "key_bits": 8, "value_bits": 8, "key_low": 0, "value_low": 0}
        self.attention(400, plane, keys_at=plane, importance=1, forget=0, **shape, **bits)
        keep = int(self.rng.integers(1, rows + 1))
        index, copy = self.put(bytes(2 * rows)), self.put(bytes(rows * row))
        self.service(Job.SELECT, [], [(index, 2 * keep)], length=rows, keep=keep, compact=1, index_addr=index)
        self.service(
            Job.GATHER, [(index, 2 * keep), (stored, rows * row)], [(copy, keep * row)],
            rows=keep, row_beats=row // BEAT, index_addr=index,
            src_addr=stored, src_stride=row, dst_addr=copy, dst_stride=row,
        )  # fmt: skip
        self.consume(440, copy, keep * row // BEAT)

    def heads_course(self) -> None:
        """One of two heads goes on, which the next job sees; then all heads again."""
        self.attention(480, None, importance=1, heads=2)
        index = self.put(bytes(4))
        self.service(Job.SELECT, [], [(index, 2)], score=Score.HEADS, length=2, keep=1, index_addr=index)
        self.attention(520, None, heads=2)
        self.step(Opcode.ATTEND, job=Job.RESET)

    def top_k(self, acc: int, words: int) -> None:
        """The largest values of accumulator words."""
        length = 8 * words
        source, index, value = (self.put(bytes(4 * length)) for _ in range(3))
        k = int(self.rng.integers(0, length + 1))
        self.step(
            Opcode.STORE, [("acc", acc, acc + words)], [("dram", source, source + 4 * length)],
            format=Format.FP32, lanes=8, addr=acc, rows=1, words=words, dram_addr=source,
        )  # fmt: skip
        places = {"src_addr": source, "index_addr": index, "value_addr": value}
        key = int(self.rng.integers(2))
        self.service(
            Job.TOPK, [(source, 4 * length)], [(index, 2 * k), (value, 4 * k)], key=key, length=length, k=k, **places
        )


def draw_layer(rng: np.random.Generator, **choices: int) -> Layer:
    """A job of 64 query elements that the engine of `ARCH` takes."""
    keys, group = int(rng.integers(1, 40)), int(rng.integers(1, 3))
    shape = {"heads": 2, "group": group, "head_size": 16, "queries": 2, "keys": keys}
    modes = {"key_mode": int(rng.integers(4)), "hold": int(rng.integers(2)), "forget": int(rng.choice([256, 200, 0]))}
    return random_layer(rng, **shape | modes | {"query_bits": 16} | choices)


def random_course(seed: int) -> Draft:
    """Jobs whose inputs are products' results, between products and loads of what the jobs wrote."""
    rng = np.random.default_rng(seed)
    draft = Draft(rng)
    for number in range(3):
        stored = draft.product(number)
        match rng.integers(5):
            case 0:
                draft.tokens_course(stored)
            case 1:
                draft.heads_course()
            case 2:
                draft.top_k(16 * number, 8)
            case 3:
                draft.attention(256 + 32 * number, stored if rng.random() < 0.7 else None)
            case _:
                draft.attention(256 + 32 * number, None, **tiles(rng))
    return draft


def tiles(rng: np.random.Generator) -> dict[str, int]:
    """Fields of a job whose rows have more keys than the engine has room for at once."""
    modes = {"key_mode": int(rng.choice([KeyMode.NEVER, KeyMode.ALWAYS])), "hold": 0, "masked": 0, "importance": 0}
    return modes | {"keys": int(rng.integers(SIZES.max_length + 1, 3 * SIZES.max_length))}


def assembled(draft: Draft) -> tuple[np.ndarray, bytes, int]:
    """Memory with the program behind everything else, the program, its address."""
    program = b"".join(map(encode, with_tokens(draft.steps, ARCH)))
    address = draft.put(program)
    return np.frombuffer(bytes(draft.image), np.uint8), program, address


def run_rtl(device, image, program, address, **options):
    return run_on(
        device, image, program=address, count=len(program) // INSTRUCTION_BYTES, timeout_cycles=TIMEOUT, **options
    )


def fixed_job(**choices) -> tuple[Draft, int]:
    """A draft that holds a job, and the address of its descriptor."""
    draft = Draft(np.random.default_rng(1))
    draft.attention(
        0,
        None,
        **{"keys": 40, "key_mode": KeyMode.ROW, "masked": 0, "causal": 0, "importance": 1, "forget": 0} | choices,
    )
    return draft, draft.steps[0].command.addr
