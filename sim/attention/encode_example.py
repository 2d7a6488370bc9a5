"""What `sparseloom encode` may name as a model: MiniLM with a text, or a function with a model of `transformers`."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hwgen.arch import UserError
from models.attention.attention import Magnitudes
from models.attention.calibrate import calibrate
from models.attention.embedding import load, texts
from models.attention.structure import structure
from scheduler.attention.capture import capture_encoder
from scheduler.attention.encoders import encoder_of
from scheduler.attention.lengths import lengths_of
from scheduler.boundary import Boundary
from scheduler.load import call_function
from scheduler.training.graph.ir import TrainingGraph

MINILM = "minilm"
Inputs = dict[str, Tensor]
"""Arguments of a model by name."""


@dataclass(frozen=True)
class Example:
    """A model and one sequence for it."""

    model: nn.Module
    inputs: Inputs
    calibration: tuple[Inputs, ...]
    """What sets the steps of quantisation."""
    words: tuple[str, ...] = ()
    """Of each token, if they are words."""


@dataclass(frozen=True)
class Subject:
    """What is compiled: the first layers of a model, with T tokens of D features."""

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


def function_example(spec: str, seed: int) -> Example:
    """What `path/to/file.py:function` returns, which is executed; calibrated on its own example.

    Raises `UserError`, one sentence, for everything that is wrong with the name, the file, or what is returned.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = call_function(spec)
    if made is None:
        raise UserError(f"cannot tell what model {spec!r} is: give {MINILM} or path/to/file.py:function")
    model, given = made
    inputs = _by_name(spec, model, given)
    return Example(model.eval().float(), inputs, (inputs,))


def _by_name(spec: str, model: nn.Module, given: object) -> Inputs:
    """Tensors by name, from a mapping or from the main input alone."""
    if isinstance(given, tuple | list) and len(given) == 1:
        (given,) = given
    if isinstance(given, Tensor):
        given = {getattr(model, "main_input_name", "input_ids"): given}
    if not isinstance(given, Mapping) or not all(isinstance(value, Tensor) for value in given.values()):
        raise UserError(
            f"{spec} must return a model and the inputs of one sequence, tensors by name as in "
            "{'input_ids': ids}, or its main input"
        )
    return {name: value.float() if value.is_floating_point() else value for name, value in given.items()}


def prepare(example: Example, layers: int | None) -> Subject:
    """Embed, calibrate and capture the first `layers` layers, or all of them. Padding on the right is left out.

    Raises `UserError` for models that cannot be pruned or lowered, and unless there is one sequence of tokens.
    """
    model, inputs = example.model, example.inputs
    with Boundary(f"{type(model).__name__} cannot run on its example inputs"), torch.no_grad():
        encoder = encoder_of(model, layers)
        hidden = encoder.embed(**inputs)
    if hidden.shape[0] != 1:
        raise UserError(f"a program is for one sequence, the example inputs are {hidden.shape[0]}")
    if inputs.get("attention_mask") is not None:
        hidden = hidden[:, : lengths_of(inputs["attention_mask"])[0]]
    if not hidden.shape[1]:
        raise UserError("the sequence of the example inputs has no tokens")
    with Boundary(f"the layers of {type(model).__name__} cannot run alone"), torch.no_grad():
        magnitudes = calibrate(model, example.calibration)[:layers]
        tables = encoder.body.tables(0, hidden.shape[1])
        plain = encoder.body(hidden, *tables)[0]
    graph = capture_encoder(encoder.body, hidden, *tables)
    return Subject(graph, magnitudes, structure(model).heads, hidden, plain, example.words)
