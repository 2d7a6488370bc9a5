"""`scaled_dot_product_attention` -> `Attend`."""

import math

from hwgen.arch.attention import CHUNK, JOB
from scheduler.attention.operators import Attend
from scheduler.training.builder import Builder, Unsupported
from scheduler.training.joint import JointNode
from scheduler.training.views import View

LARGEST_HEAD = next(item.limit for item in JOB if item.name == "head_size")


def attention(b: Builder, node: JointNode) -> View:
    """Queries, keys and values lie head beside head in the channels, and so does the result."""
    _check(b, node)
    _, heads, tokens, size = b.view(node, "query").sizes
    row = heads * size
    dims = (), ((heads, size),), ((tokens, row),), ((size, 1),)
    shape = (1, 1, tokens, row)
    operands = [b.arrange(node, b.view(node, name), dims, shape).tensor for name in ("query", "key", "value")]
    name, scale = b.new(node, "attention", shape), node.args.get("scale")
    causal = bool(node.args.get("is_causal"))
    b.emit(Attend(name, *operands, heads, 1 / math.sqrt(size) if scale is None else scale, causal))
    return View(name, dims)


def _check(b: Builder, node: JointNode) -> None:
    """Raise `Unsupported` for attention that the engine does not compute."""
    query, key, value = (b.view(node, name).sizes for name in ("query", "key", "value"))
    if len(query) != 4 or not query == key == value:
        raise Unsupported(
            f"queries, keys and values must have one shape [1, heads, tokens, head size], not {list(query)}, "
            f"{list(key)} and {list(value)}"
        )
    if query[0] != 1:
        raise Unsupported(f"a program is for one sequence, not {query[0]}")
    if query[3] % CHUNK or query[3] > LARGEST_HEAD:
        sizes = f"multiples of {CHUNK} from {CHUNK} to {LARGEST_HEAD} are allowed"
        raise Unsupported(f"heads of {query[3]} elements: {sizes}")
    if node.args.get("attn_mask") is not None:
        raise Unsupported("it has a mask; allowed are none and is_causal, and padding by the `length` of a sequence")
    if node.args.get("dropout_p", 0.0) != 0.0:
        raise Unsupported("attention with dropout has no lowering")


HANDLERS = {"aten.scaled_dot_product_attention.default": attention}
"""Lowerings that come before those of a training step."""
