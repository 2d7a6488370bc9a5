"""Key and value cache of a layer that pruned tokens leave, while positions go on counting."""

from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from hwgen.arch import UserError


class PrunedLayer(DynamicLayer):
    """Holds surviving keys and values [batch, KV heads, survivors, features]; its length is that of the sequence.

    Masks and positions are made from the length, so they do not change when tokens leave.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append keys and values of new tokens; returns all that are held."""
        return super().update(key_states, value_states, *args, **kwargs)

    def get_seq_length(self) -> int:
        """Tokens of the sequence so far, pruned ones included."""
        return self.seen

    def reset(self) -> None:
        """Forget all."""
        super().reset()
        self.seen = 0

    def crop(self, tokens_to_remove: int) -> None:
        """Refused: pruned tokens cannot be brought back."""
        raise UserError("a pruned cache cannot be shortened: tokens that were pruned meanwhile cannot come back")

    def _refuse(self, *_: object) -> None:
        raise UserError("a pruned cache cannot change its batch, as beam search does: use greedy decoding or sampling")

    reorder_cache = batch_repeat_interleave = batch_select_indices = _refuse


def adopt(cache: Cache, layers: int) -> None:
    """Turn an empty `DynamicCache` of a model with `layers` layers into a pruned one. Raises `UserError` for others."""
    plain = isinstance(cache, DynamicCache) and all(type(layer) is DynamicLayer for layer in cache.layers)
    if not plain or cache.get_seq_length():
        raise UserError(
            f"pruned attention needs an empty DynamicCache of plain layers, without sliding windows, not {cache!r}"
        )
    cache.layers = [PrunedLayer() for _ in range(layers)]
    cache.layer_class_to_replicate = None
