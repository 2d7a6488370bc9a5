"""How far the outputs of attention are from unpruned ones when a decoder's key cache keeps a number of tokens only.

Queries, keys and values are those of MiniLM's trained weights for texts of several paragraphs, run with a causal mask:
real words on real heads, though the model was trained to look both ways. A layer decodes token by token; after each
token the least important one leaves, as SELECT of the engine chooses: importance in units of 2^-16, which `forget`
/ 256 scales before each token, and a window of the newest tokens that stay.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import BertConfig, BertModel

from hwgen.arch.attention import FORGET_FRACTION, PROBABILITY_FRACTION
from models.attention.embedding import load, texts
from models.attention_engine.cascade import survivors

Heads = NDArray[np.float64]
"""[heads, tokens, D]"""
PARTS = ("query", "key", "value")


@dataclass(frozen=True)
class Cached:
    """Means over the tokens behind the first that leaves.

    error : of outputs, relative to those of the whole cache. seen : share of its probabilities that kept tokens have.
    age : half of the tokens that are kept in the end are younger.
    """

    error: float
    seen: float
    age: float


@cache
def layers() -> list[tuple[Heads, Heads, Heads]]:
    """Queries, keys and values of every layer for two texts, each half of the paragraphs. Raises as `load` does."""
    minilm = load()
    config = BertConfig.from_dict({**minilm.model.config.to_dict(), "is_decoder": True})
    model = BertModel(config, add_pooling_layer=False).eval()
    model.load_state_dict(minilm.model.state_dict())
    paragraphs = minilm.tokens(texts("paragraphs"))
    found = []
    for first in range(2):
        own = paragraphs[first::2]
        ids = torch.cat([own[0], *(ids[:, 1:] for ids in own[1:])], 1)
        found += list(_projections(model, ids))
    return found


def _projections(model: BertModel, ids: torch.Tensor) -> Iterator[tuple[Heads, Heads, Heads]]:
    heads, outputs = model.config.num_attention_heads, []
    attentions = [layer.attention.self for layer in model.encoder.layer]
    hooks = [
        getattr(attention, part).register_forward_hook(lambda _, __, output: outputs.append(output[0]))
        for attention in attentions
        for part in PARTS
    ]
    with torch.no_grad():
        model(input_ids=ids)
    for hook in hooks:
        hook.remove()
    split = [output.view(len(output), heads, -1).transpose(0, 1).double().numpy() for output in outputs]
    for place in range(0, len(split), len(PARTS)):
        yield tuple(split[place : place + len(PARTS)])


def decode(query: Heads, key: Heads, value: Heads, *, room: int, forget: int, recent: int) -> Cached:
    """A layer whose cache keeps `room` tokens, among them the `recent` newest. forget : in 1/256."""
    tokens, scores = np.zeros(0, np.int64), np.zeros(0, np.int64)
    errors, shares = [], []
    for token in range(query.shape[1]):
        tokens, scores = np.append(tokens, token), np.append(scores * forget >> FORGET_FRACTION, 0)
        probabilities, output = _attend(query[:, token], key[:, tokens], value[:, tokens])
        scores += np.rint(probabilities * (1 << PROBABILITY_FRACTION)).astype(np.int64).sum(0)
        if token >= room:
            whole, wanted = _attend(query[:, token], key[:, : token + 1], value[:, : token + 1])
            errors.append(np.linalg.norm(output - wanted) / np.linalg.norm(wanted))
            shares.append(whole[:, tokens].sum(1).mean())
        if len(tokens) > room:
            kept = survivors(scores, room, tokens > token - recent)
            tokens, scores = tokens[kept], scores[kept]
    return Cached(float(np.mean(errors)), float(np.mean(shares)), float(query.shape[1] - np.median(tokens)))


def _attend(query: Heads, key: Heads, value: Heads) -> tuple[Heads, Heads]:
    """Probabilities [heads, keys] and output [heads, D] of one query [heads, D]."""
    scores = np.einsum("hd,hnd->hn", query, key) / np.sqrt(query.shape[-1])
    powers = np.exp(scores - scores.max(1, keepdims=True))
    probabilities = powers / powers.sum(1, keepdims=True)
    return probabilities, np.einsum("hn,hnd->hd", probabilities, value)


def kept(room: int, forget: int, recent: int) -> Cached:
    """Means over the layers of all texts."""
    runs = [decode(*layer, room=room, forget=forget, recent=recent) for layer in layers()]
    return Cached(*(float(np.mean([getattr(run, name) for run in runs])) for name in ("error", "seen", "age")))
