"""A causal model as two programs in one memory: one for a prompt, one that is run for token after token.

Keys and values stay in memory as planes. The second program is the same for every token but for the descriptors that
say where its keys and values go and how many are seen; the host writes these before each run (`write_token`). Where the
policy prunes tokens, one leaves each layer that is full (`slots.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwgen.arch import Arch, UserError
from models.attention.attention import Magnitudes
from models.attention.policy import PruningPolicy
from models.pattern import Pattern
from scheduler.attention.cascade import attentions, prune
from scheduler.attention.kernels import AttentionKernels
from scheduler.attention.lower import begin, check, check_arch, code_address, emit
from scheduler.attention.planes import Cache, Moving
from scheduler.attention.program import EncoderProgram, Values, put
from scheduler.attention.slots import Capacity, Places, Slots
from scheduler.attention.tokens import PromptKernels, TokenKernels
from scheduler.training.compile import schedule
from scheduler.training.graph.ir import TrainingGraph
from scheduler.training.lower import Step, TrainingOptions


@dataclass(frozen=True, kw_only=True)
class DecoderProgram:
    """`prompt` runs once for a sequence, then `token` once for each token."""

    prompt: EncoderProgram
    token: EncoderProgram
    room: int
    """Longest sequence, the prompt included."""
    moving: tuple[Moving, ...]
    slots: Slots

    @property
    def memory_size(self) -> int:
        """Bytes of external memory, from address 0."""
        return self.token.memory_size

    def image(self, hidden: Values) -> NDArray[np.uint8]:
        """External memory before the first run, with the prompt's hidden states [T, D]."""
        memory = np.zeros(self.memory_size, np.uint8)
        self.token.fill(memory)
        self.prompt.fill(memory)
        self.prompt.write_input(memory, hidden)
        return memory

    def write_token(
        self, memory: NDArray[np.uint8], position: int, hidden: Values, tables: Sequence[Values] = ()
    ) -> None:
        """Write the hidden state [1, D] of the token at a position, counted from the start of the prompt.

        `tables` [1, C] are those of the position (`Encoder.body.tables`), for models that have any. `memory` is that
        after the run before. Raises `UserError` for a position behind the longest sequence, and if tokens are pruned
        for one that is not the next.
        """
        first = self.prompt.input.n
        if not first <= position < self.room:
            raise UserError(f"the position of a token must be in {first}..{self.room - 1}, not {position}")
        self.token.write_input(memory, hidden)
        self.token.write_tables(memory, tables)
        slot, capacity = self.slots.next(memory, position), self.slots.capacity
        for item in self.moving:
            put(memory, item.address, item.at(slot, capacity.keys(position), capacity.most))


def compile_decoder(
    graphs: tuple[TrainingGraph, TrainingGraph],
    arch: Arch,
    policy: PruningPolicy,
    magnitudes: list[Magnitudes],
    *,
    room: int,
    pattern: Pattern | None = None,
    dense: tuple[str, ...] = (),
    memory_bytes: int | None = None,
) -> DecoderProgram:
    """Programs of a prompt and of a token, for sequences of up to `room` tokens.

    `graphs` are those of `capture_encoder` for a prompt and for one token; otherwise as `compile_encoder`. Tokens are
    pruned by caps, and layer 0 keeps all of the prompt: raises `UserError` for other policies.
    """
    capacity = _capacity(graphs, arch, policy, room)
    kept = check(graphs[0], arch, policy, magnitudes)
    parts = {"capacity": capacity, "cache": Cache(capacity.rows), "places": Places()}
    options = TrainingOptions(pattern=pattern, dense=dense, memory_bytes=memory_bytes)
    prompt = begin(prune(graphs[0], kept), arch, options)
    token = begin(graphs[1], arch, options, beside=prompt)
    kernels = [kind(policy, kept, magnitudes, **parts) for kind in (PromptKernels, TokenKernels)]
    for step, kernel in zip((prompt, token), kernels):
        emit(step, kernel)
    programs = _programs((prompt, token), kernels, arch)
    slots, moving = Slots(kept[0].tokens, policy, **parts), tuple(kernels[1].moving)
    return DecoderProgram(prompt=programs[0], token=programs[1], room=room, moving=moving, slots=slots)


def _programs(steps: tuple[Step, Step], kernels: list[AttentionKernels], arch: Arch) -> list[EncoderProgram]:
    """One behind the other in memory."""
    programs, end = [], steps[0].memory.end
    for step, kernel in zip(steps, kernels, strict=True):
        code = schedule(step, code_address(arch, end))
        kept, selected = tuple(kernel.kept), tuple(kernel.selected)
        programs.append(EncoderProgram(arch=arch, places=step, code=code, kept=kept, selected=selected))
        end = code.address + code.size
    return programs


def _capacity(graphs: tuple[TrainingGraph, TrainingGraph], arch: Arch, policy: PruningPolicy, room: int) -> Capacity:
    """Tokens that each layer keeps. Raises `UserError` as `compile_decoder` does."""
    check_arch(graphs[0], arch)
    lengths = [graph.tensors[graph.of_kind("input")[0]].shape[2] for graph in graphs]
    if lengths[1] != 1 or not lengths[0] < room:
        raise UserError(
            f"the second graph must be of one token, not {lengths[1]}, and the prompt ({lengths[0]} tokens) "
            f"shorter than the longest sequence ({room})"
        )
    caps = (room,) * len(attentions(graphs[0]))
    if policy.tokens is not None:
        caps = policy.tokens.caps
        if not caps:
            raise UserError(
                "tokens of a decoder are pruned by caps, not by shares or thresholds: a program needs counts"
            )
    capacity = Capacity(room, tuple(max(cap, policy.protect_first + policy.recent) for cap in caps))
    if capacity.rows[0] > arch.attention.max_length:
        raise UserError(
            f"a layer holds {capacity.rows[0]} tokens, attention.max_length of {arch.name} is "
            f"{arch.attention.max_length}: shorten the longest sequence, or cap the tokens"
        )
    return capacity
