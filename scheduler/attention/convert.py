"""`scaled_dot_product_attention` -> `Attend`."""

import math

from hwgen.arch.attention import CHUNK, JOB
from scheduler.attention.operators import Attend, RmsNorm
from scheduler.training.convert.builder import Builder, Unsupported
from scheduler.training.convert.joint import JointNode
from scheduler.training.convert.layers import normalized, vector
from scheduler.training.graph.views import View

FP32_EPS = 2.0**-23
LARGEST_HEAD = next(item.limit for item in JOB if item.name == "head_size")


def attention(b: Builder, node: JointNode) -> View:
    """Queries, keys and values lie head beside head in the channels, and so does the result."""
    _check(b, node)
    _, heads, tokens, size = b.view(node, "query").sizes
    kv_heads = b.view(node, "key").sizes[1]
    operands = []
    for name, count in (("query", heads), ("key", kv_heads), ("value", kv_heads)):
        dims, shape = _rows(count, tokens, size)
        operands.append(b.arrange(node, b.view(node, name), dims, shape).tensor)
    dims, shape = _rows(heads, tokens, size)
    name, scale = b.new(node, "attention", shape), node.args.get("scale")
    causal = bool(node.args.get("is_causal"))
    b.emit(Attend(name, *operands, heads, kv_heads, 1 / math.sqrt(size) if scale is None else scale, causal))
    return View(name, dims)


def _rows(heads: int, tokens: int, size: int) -> tuple[tuple, tuple[int, int, int, int]]:
    """A row for each token, head beside head: dimensions as a `View` has them, and shape."""
    row = heads * size
    return ((), ((heads, size),), ((tokens, row),), ((size, 1),)), (1, 1, tokens, row)


def _check(b: Builder, node: JointNode) -> None:
    """Raise `Unsupported` for attention that the engine does not compute."""
    query, key, value = (b.view(node, name).sizes for name in ("query", "key", "value"))
    grouped = bool(node.args.get("enable_gqa"))
    if len(query) != 4 or key != value or (query[0], *query[2:]) != (key[0], *key[2:]) or query[1] % key[1]:
        raise Unsupported(
            "queries must be [1, heads, tokens, head size], keys and values as many of a number of heads that divides "
            f"it, not {list(query)}, {list(key)} and {list(value)}"
        )
    if key[1] != query[1] and not grouped:
        raise Unsupported(f"{query[1]} heads of queries and {key[1]} of keys: say enable_gqa=True if they are grouped")
    if query[0] != 1:
        raise Unsupported(f"a program is for one sequence, not {query[0]}")
    if query[3] % CHUNK or query[3] > LARGEST_HEAD:
        sizes = f"multiples of {CHUNK} from {CHUNK} to {LARGEST_HEAD} are allowed"
        raise Unsupported(f"heads of {query[3]} elements: {sizes}")
    if node.args.get("attn_mask") is not None:
        raise Unsupported("it has a mask; allowed are none and is_causal, and padding by the `length` of a sequence")
    if node.args.get("dropout_p", 0.0) != 0.0:
        raise Unsupported("attention with dropout has no lowering")


def rms_norm(b: Builder, node: JointNode) -> View:
    """Over the last dimensions of its input, as rows."""
    view, inner, _ = normalized(b, node)
    result, eps = b.like(node, "normalized", view), node.args.get("eps")
    gamma = vector(b, b.optional(node, "weight"), inner)
    b.emit(RmsNorm(result.tensor, view.tensor, gamma, FP32_EPS if eps is None else float(eps)))
    return result


HANDLERS = {
    "aten.scaled_dot_product_attention.default": attention,
    "aten.rms_norm.default": rms_norm,
}
"""Lowerings that come before those of a training step."""
