"""Random operand, FP32 and index bytes: mostly ordinary numbers, now and then those that arithmetic goes wrong on."""

import numpy as np

_SPECIAL_FP16 = (0x0000, 0x8000, 0x0001, 0x83FF, 0x0400, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00)
_SPECIAL_BF16 = (0x0000, 0x8000, 0x0001, 0x807F, 0x0080, 0x7F7F, 0xFF7F, 0x7F80, 0xFF80, 0x7FC0)
_SPECIAL_FP32 = (0, 1 << 31, 1, 0x807FFFFF, 0x00800000, 0x7F7FFFFF, 0x477FF000, 0x33000000, 0x7F800000, 0x7FC00000)


def operand_bytes(rng: np.random.Generator, count: int, operand: str, specials: float) -> np.ndarray:
    """`count` operands in "fp16" or "bf16" as bytes; a share `specials` of them are corner values."""
    values = (rng.standard_normal(count) * 2.0 ** rng.integers(-4, 3)).astype(np.float32)
    if operand == "fp16":
        bits, corners = values.astype(np.float16).view(np.uint16), _SPECIAL_FP16
    else:
        bits, corners = (values.view(np.uint32) >> 16).astype(np.uint16), _SPECIAL_BF16
    chosen = rng.random(count) < specials
    return np.where(chosen, rng.choice(np.array(corners, np.uint16), count), bits).astype("<u2").view(np.uint8)


def fp32_bytes(rng: np.random.Generator, count: int, specials: float) -> np.ndarray:
    """`count` FP32 values as bytes; a share `specials` of them are corner values."""
    bits = rng.standard_normal(count).astype(np.float32).view(np.uint32)
    chosen = rng.random(count) < specials
    return np.where(chosen, rng.choice(np.array(_SPECIAL_FP32, np.uint32), count), bits).astype("<u4").view(np.uint8)


def index_bytes(rng: np.random.Generator, count: int, group: int) -> np.ndarray:
    """`count` bytes of two 4-bit indices each, all below `group`."""
    return (rng.integers(0, group, count) | rng.integers(0, group, count) << 4).astype(np.uint8)
