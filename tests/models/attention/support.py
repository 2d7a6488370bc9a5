"""Tiny models with random weights, and pruned attention over again in float64: lists of tokens, one head at a time."""

import math

import numpy as np
import torch
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    ViTConfig,
    ViTModel,
)

from models.attention import PruningPolicy, Quantization, Schedule, prune

LAYERS, HEADS = 4, 4
SIZES = {"hidden_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": 48}
ENDS = {"bos_token_id": 0, "eos_token_id": 0}
BUILDERS = {
    "bert": lambda: BertModel(BertConfig(vocab_size=64, **SIZES)),
    "distilbert": lambda: DistilBertModel(
        DistilBertConfig(vocab_size=64, dim=32, n_layers=LAYERS, n_heads=HEADS, hidden_dim=48)
    ),
    "vit": lambda: ViTModel(ViTConfig(image_size=16, patch_size=4, **SIZES)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=64, n_embd=32, n_layer=LAYERS, n_head=HEADS, n_positions=64, **ENDS)
    ),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(vocab_size=64, num_key_value_heads=2, **SIZES, **ENDS)),
}
ENCODERS, DECODERS = ("bert", "distilbert", "vit"), ("gpt2", "llama")

TOKENS = Schedule(shares=(1.0, 0.8, 0.6, 0.4))
FULL = PruningPolicy(
    tokens=TOKENS,
    heads=Schedule(shares=(1.0, 1.0, 0.75, 0.5)),
    values=Schedule(shares=(0.7,) * LAYERS),
    quantization=Quantization(threshold=0.3),
)


def run(model, arguments, policy, **kwargs):
    with torch.no_grad(), prune(model, policy, **kwargs) as pruned:
        return pruned, model(**arguments)[0]


def build(name, seed=0):
    """A model whose attention is not flat, so that scores differ."""
    print(f"seed {seed}")
    torch.manual_seed(seed)
    model = BUILDERS[name]().eval()
    with torch.no_grad():
        for part, weight in model.named_parameters():
            if weight.dim() == 2 and any(
                word in part for word in ("query", "key", "c_attn", "q_lin", "q_proj", "k_proj")
            ):
                weight.mul_(12)
    return model


def inputs(name, batch=2, length=12, seed=1):
    generator = torch.Generator().manual_seed(seed)
    if name == "vit":
        return {"pixel_values": torch.randn(batch, 3, 16, 16, generator=generator)}
    ids = torch.randint(1, 64, (batch, length), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def largest(scores, k):
    """Indices of the k largest, lower ones first among equals, in ascending order."""
    return sorted(sorted(range(len(scores)), key=lambda index: (-scores[index], index))[:k])


def softmax_rows(scores):
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def norm(x, layer):
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + layer.eps)
    return scaled * array(layer.weight) + array(layer.bias)


def array(tensor):
    return tensor.detach().double().numpy()


def linear(x, layer):
    weight = array(layer.weight)
    return x @ (weight.T if isinstance(layer, torch.nn.Linear) else weight) + array(layer.bias)


class Reference:
    """Scores and survivors of one sequence; layers call `attention` with the tokens that are theirs."""

    def __init__(self, shares, values=1.0, first=1, recent=0, forgetting=1.0):
        self.shares, self.values, self.first, self.recent, self.forgetting = shares, values, first, recent, forgetting
        self.scores, self.length = {}, 0
        self.held = [[] for _ in shares]
        """For each layer: (position, keys [H, D], values [H, D]) in the cache."""

    def survivors(self, layer, candidates, new):
        """Positions that layer `layer` keeps of `candidates` (ascending)."""
        k = math.ceil(round(self.shares[layer] * self.length, 9))
        protected = [p for p in candidates if p < self.first or p >= self.length - self.recent]
        protected += [p for p in new if layer == 0 and p not in protected]
        ranks = [math.inf if p in protected else self.scores[p] for p in candidates]
        return [candidates[i] for i in largest(ranks, min(len(candidates), max(k, len(protected))))]

    def attention(self, rows, query, keys, head_size, causal):
        """Outputs [rows, H x D] of `query` [rows, H, D] over `keys`, a list of (position, key, value)."""
        output = np.zeros(query.shape)
        for head in range(query.shape[1]):
            for index, row in enumerate(rows):
                seen = [key for key in keys if not causal or key[0] <= row]
                scores = np.array([query[index, head] @ key[1][head] for key in seen]) / math.sqrt(head_size)
                p = softmax_rows(scores)
                for (position, _, _), each in zip(seen, p):
                    self.scores[position] += math.floor(np.float32(each) * 65536.0 + 0.5)
                for j in largest(p, math.ceil(round(self.values * len(seen), 9))):
                    output[index, head] += p[j] * seen[j][2][head]
        return output.reshape(len(rows), -1)


def reference_bert(model, ids, reference):
    """Hidden states [survivors, features] and positions of a BERT model for one sequence."""
    parts = model.embeddings
    table, places = array(parts.word_embeddings.weight), array(parts.position_embeddings.weight)
    x = table[ids] + places[: len(ids)] + array(parts.token_type_embeddings.weight)[0]
    x, rows = norm(x, parts.LayerNorm), list(range(len(ids)))
    reference.length, reference.scores = len(ids), dict.fromkeys(rows, 0)
    for number, layer in enumerate(model.encoder.layer):
        if number:
            kept = reference.survivors(number, rows, [])
            x, rows = x[[rows.index(row) for row in kept]], kept
        own = layer.attention.self
        heads = model.config.num_attention_heads
        q, k, v = (linear(x, part).reshape(len(rows), heads, -1) for part in (own.query, own.key, own.value))
        mixed = reference.attention(rows, q, list(zip(rows, k, v)), q.shape[-1], causal=False)
        x = norm(x + linear(mixed, layer.attention.output.dense), layer.attention.output.LayerNorm)
        inner = linear(x, layer.intermediate.dense)
        inner = inner * 0.5 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
        x = norm(x + linear(inner, layer.output.dense), layer.output.LayerNorm)
    return x, rows


def reference_gpt2_pass(model, ids, reference):
    """Final hidden states [survivors, features] and positions after new tokens `ids`; caches are in `reference`."""
    body, start = model.transformer, reference.length
    rows = list(range(start, start + len(ids)))
    reference.length += len(ids)
    reference.scores = {place: math.floor(score * reference.forgetting) for place, score in reference.scores.items()}
    reference.scores |= dict.fromkeys(rows, 0)
    x = array(body.wte.weight)[ids] + array(body.wpe.weight)[rows]
    alive, new = list(range(reference.length)), list(rows)
    for number, layer in enumerate(body.h):
        candidates = [p for p in alive if p in rows or p in {key[0] for key in reference.held[number]}]
        if number or start:
            candidates = reference.survivors(number, candidates, new)
        alive = candidates
        kept = [row for row in rows if row in alive]
        x, rows = x[[rows.index(row) for row in kept]], kept
        mixed = linear(norm(x, layer.ln_1), layer.attn.c_attn).reshape(len(rows), 3, HEADS, -1)
        held = reference.held[number] + list(zip(rows, mixed[:, 1], mixed[:, 2]))
        reference.held[number] = [key for key in held if key[0] in alive]
        out = reference.attention(rows, mixed[:, 0], reference.held[number], mixed.shape[-1], causal=True)
        x = x + linear(out, layer.attn.c_proj)
        inner = linear(norm(x, layer.ln_2), layer.mlp.c_fc)
        inner = 0.5 * inner * (1 + np.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)))
        x = x + linear(inner, layer.mlp.c_proj)
    return norm(x, body.ln_f), rows
