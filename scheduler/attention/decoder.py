"""A causal model as two programs in one memory: one for a prompt, one that is run for token after token.

Keys and values stay in memory as planes. The second program is the same for every token but for the descriptors that
say where its keys and values go and how many are seen; the host writes these before each run (`write_token`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwgen.arch import Arch, UserError
from models.attention.attention import Magnitudes
from models.attention.policy import PruningPolicy
from models.pattern import Pattern
from scheduler.attention.kernels import AttentionKernels
from scheduler.attention.lower import begin, check, check_arch, code_address, emit
from scheduler.attention.planes import Cache, Moving
from scheduler.attention.program import EncoderProgram, Values, put
from scheduler.training.compile import schedule
from scheduler.training.ir import TrainingGraph
from scheduler.training.lower import TrainingOptions


@dataclass(frozen=True, kw_only=True)
class DecoderProgram:
    """`prompt` runs once for a sequence, then `token` once for each token."""

    prompt: EncoderProgram
    token: EncoderProgram
    room: int
    """Tokens of a sequence that the cache has room for, those of the prompt among them."""
    moving: tuple[Moving, ...]

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

    def write_token(self, memory: NDArray[np.uint8], position: int, hidden: Values) -> None:
        """Write the hidden state [1, D] of the token at a position, counted from the start of the prompt.

        Raises `UserError` if the cache has no room for it.
        """
        first = self.prompt.input.n
        if not first <= position < self.room:
            raise UserError(f"the position of a token must be in {first}..{self.room - 1}, not {position}")
        self.token.write_input(memory, hidden)
        for item in self.moving:
            put(memory, item.address, item.at(position))


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

    `graphs` are those of `capture_encoder` for a prompt and for one token; otherwise as `compile_encoder`. All tokens
    and heads are kept: raises `UserError` for a policy that prunes them.
    """
    length = _check(graphs, arch, policy, room)
    kept = check(graphs[0], arch, policy, magnitudes)
    cache = Cache(room)
    options = TrainingOptions(pattern=pattern, dense=dense, memory_bytes=memory_bytes)
    prompt = begin(graphs[0], arch, options)
    token = begin(graphs[1], arch, options, beside=prompt)
    kernels = [AttentionKernels(policy, kept, magnitudes, cache=cache, first=first) for first in (0, length)]
    for step, kernel in zip((prompt, token), kernels):
        emit(step, kernel)
    programs, end = [], prompt.memory.end
    for step in (prompt, token):
        code = schedule(step, code_address(arch, end))
        programs.append(EncoderProgram(arch=arch, places=step, code=code, kept=tuple(kept), selected=()))
        end = code.address + code.size
    return DecoderProgram(prompt=programs[0], token=programs[1], room=room, moving=tuple(kernels[1].moving))


def _check(graphs: tuple[TrainingGraph, TrainingGraph], arch: Arch, policy: PruningPolicy, room: int) -> int:
    """Tokens of the prompt. Raises `UserError` as `compile_decoder` does."""
    check_arch(graphs[0], arch)
    lengths = [graph.tensors[graph.of_kind("input")[0]].shape[2] for graph in graphs]
    if lengths[1] != 1 or not lengths[0] < room:
        raise UserError(
            f"the second graph must be of one token, not {lengths[1]}, and the prompt ({lengths[0]} tokens) "
            f"shorter than the cache ({room})"
        )
    if room > arch.attention.max_length:
        raise UserError(
            f"the cache has room for {room} tokens, attention.max_length of {arch.name} is {arch.attention.max_length}"
        )
    if policy.tokens is not None or policy.heads is not None:
        raise UserError("decoders keep all tokens and heads: a policy for them has values and quantization only")
    return lengths[0]
