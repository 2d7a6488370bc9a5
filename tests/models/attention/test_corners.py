"""Inputs at the edge, through whole models: more to keep than there is, rows that see no key."""

import dataclasses

import pytest
import torch

from models.attention import PruningPolicy, Schedule
from tests.models.attention.support import FULL, LAYERS, build, inputs, run

MANY = Schedule(caps=(100,) * LAYERS)


def test_caps_above_what_there_is_keep_everything():
    model, arguments = build("gpt2"), inputs("gpt2")
    with torch.no_grad():
        plain = model(**arguments)[0]
    pruned, found = run(model, arguments, PruningPolicy(tokens=MANY, values=MANY))
    assert pruned.live.all()
    assert (found - plain).abs().max() < 1e-5


@pytest.mark.parametrize("policy", [PruningPolicy(), dataclasses.replace(FULL, tokens=None)], ids=["plain", "full"])
def test_a_row_that_sees_no_key_is_as_if_attention_gave_zeros(policy):
    """A mask of pairs hides every key from one query; the other rows don't notice in the first layer."""
    model, arguments = build("bert"), inputs("bert", batch=1)
    mask = torch.ones(1, 1, 12, 12, dtype=torch.bool)
    mask[..., 3, :] = False
    outputs = []
    layer = model.encoder.layer[0].attention.self
    hook = layer.register_forward_hook(lambda _, __, output: outputs.append(output[0]))
    for arguments["attention_mask"] in (mask, torch.ones_like(mask)):
        _, found = run(model, arguments, policy)
        assert torch.isfinite(found).all()
    hook.remove()
    hidden, seen = outputs
    assert not hidden[0, 3].any()
    assert seen[0, 3].any()
    others = torch.arange(12) != 3
    assert torch.equal(hidden[0, others], seen[0, others])
