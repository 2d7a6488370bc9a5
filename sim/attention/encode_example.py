"""What `sparseloom encode` compiles: layers of MiniLM with a text, or of a model that a function gives."""

from dataclasses import dataclass

from torch import Tensor

from hwgen.arch import UserError
from models.attention.attention import Magnitudes
from models.attention.embedding import load, texts
from models.attention.structure import structure
from scheduler.attention.capture import capture_encoder
from scheduler.training.graph.ir import TrainingGraph
from sim.attention.example import Example, layers_of

MINILM = "minilm"


@dataclass(frozen=True)
class Subject:
    """The first layers of a model, with T tokens of D features."""

    graph: TrainingGraph
    magnitudes: list[Magnitudes]
    heads: int
    hidden: Tensor
    """Before the first layer, by the host: [1, T, D]."""
    plain: Tensor
    """Behind the last one, in float32 with nothing pruned: [T, D]."""
    words: tuple[str, ...]

    @property
    def layers(self) -> int:
        """Number of layers."""
        return len(self.magnitudes)


def minilm_example(text: str | None) -> Example:
    """MiniLM with a text, or with the first sentence of its set; calibrated on the other sentences.

    Raises `UserError` for a text that is longer than the model can take.
    """
    minilm, known = load(), texts("sentences")
    text = known[0] if text is None else text
    ids, *others = minilm.tokens([text, *(sentence for sentence in known if sentence != text)])
    most = minilm.model.config.max_position_embeddings
    if ids.shape[1] > most:
        raise UserError(f"the text has {ids.shape[1]:,} tokens, MiniLM takes at most {most}")
    words = tuple(map(minilm.tokenizer.id_to_token, ids[0].tolist()))
    return Example(minilm.model, {"input_ids": ids}, tuple({"input_ids": one} for one in others), words)


def prepare(example: Example, layers: int | None) -> Subject:
    """Embed, calibrate and capture the first `layers` layers, or all of them. Raises `UserError` as `layers_of`."""
    ready = layers_of(example, layers)
    hidden, heads = ready.hidden, structure(example.model).heads
    plain = ready.plain(hidden)
    graph = capture_encoder(ready.encoder.body, hidden, *ready.tables(0, hidden.shape[1]))
    return Subject(graph, ready.magnitudes, heads, hidden, plain, example.words)
