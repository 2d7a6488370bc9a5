"""Words that the parts of the jobs beside attention exchange, and ports that all jobs have."""

from amaranth.lib import data, stream
from amaranth.lib.wiring import In, Member, Out

from hwgen.arch.attention import AttentionSizes
from hwgen.arch.services import SERVICES, Job
from hwgen.attention.words import ADDRESS_BITS
from hwgen.attention.writer import PAGE_BYTES
from hwgen.pruning.words import WIDTHS
from hwgen.quantization.packer import LANES

JOB_BITS = 3
BEATS_BITS = 21
"""Beats of a span: up to 65,535 rows of 256 bytes in beats of 16."""
LONGEST_BURST = 16
"""Beats of a write; a read takes up to a quarter of `reads_in_flight`."""


class ServiceCommand(data.StructLayout):
    """A job, as in `Job`, and the byte address of its descriptor, a multiple of the beat size; RESET has none."""

    def __init__(self) -> None:
        super().__init__({"job": JOB_BITS, "address": ADDRESS_BITS})


class BeatSpan(data.StructLayout):
    """Beats that follow one another. address : byte address of the first, a multiple of the beat size.

    table : of reads; for the descriptor, steps, lists and masks.
    """

    def __init__(self) -> None:
        super().__init__({"address": ADDRESS_BITS, "beats": BEATS_BITS, "table": 1})


class ReadBeat(data.StructLayout):
    """A beat that came, and `table` of its span."""

    def __init__(self, beat_bytes: int) -> None:
        super().__init__({"data": 8 * beat_bytes, "table": 1})


class StoreBeat(data.StructLayout):
    """A beat to write; strobes : a bit for each byte that is written."""

    def __init__(self, beat_bytes: int) -> None:
        super().__init__({"data": 8 * beat_bytes, "strobes": beat_bytes})


class ServiceFields(data.StructLayout):
    """Fields of the descriptor of a job."""

    def __init__(self, job: Job) -> None:
        super().__init__({item.name: item.width for item in SERVICES[job]})


def job_ports(sizes: AttentionSizes, *, channels: int) -> dict[str, Member]:
    """Ports that every job has: what it reads, what it writes by `channels` of the write port, whether it runs."""
    span, store = Out(stream.Signature(BeatSpan())), Out(stream.Signature(StoreBeat(sizes.beat_bytes)))
    return {
        "span": span,
        "data": In(stream.Signature(ReadBeat(sizes.beat_bytes))),
        **{f"span_{number}": span for number in range(channels)},
        **{f"o_{number}": store for number in range(channels)},
        "busy": Out(1),
    }


def write_burst(beat_bytes: int) -> int:
    """Beats of the longest burst of a write."""
    return min(LONGEST_BURST, PAGE_BYTES // beat_bytes)


def quantizer_lanes(sizes: AttentionSizes) -> int:
    """Values a cycle of the quantiser: operands of a beat."""
    return min(max(LANES), sizes.beat_bytes // 2)


def rank_width(sizes: AttentionSizes) -> int:
    """Elements a cycle of the top-k engine: no more than values in a beat, or importance in a word."""
    return min(sizes.softmax_lanes, sizes.beat_bytes // 4, max(WIDTHS))
