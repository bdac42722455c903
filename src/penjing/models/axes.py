"""What the dimensions of tensors run along: one unit of an axis lies in every tensor that has the axis."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

# By the name of a tensor inside its block or the model. `query` and `key` are the elements of heads, which go
# by key-value groups; `head` those within any head; `inner` are feed-forward channels.
TENSOR_AXES: dict[str, tuple[str, ...]] = {
    "embedding": ("vocabulary", "hidden"),
    "head": ("vocabulary", "hidden"),
    "final_norm": ("hidden",),
    "attention_norm": ("hidden",),
    "query": ("query", "hidden"),
    "query_bias": ("query",),
    "query_norm": ("head",),
    "key": ("key", "hidden"),
    "key_bias": ("key",),
    "key_norm": ("head",),
    "value": ("key", "hidden"),
    "value_bias": ("key",),
    "output": ("hidden", "query"),
    "output_bias": ("hidden",),
    "post_attention_norm": ("hidden",),
    "feed_forward_norm": ("hidden",),
    "router": ("expert", "hidden"),
    "gate": ("inner", "hidden"),
    "gate_bias": ("inner",),
    "up": ("inner", "hidden"),
    "up_bias": ("inner",),
    "down": ("hidden", "inner"),
    "down_bias": ("hidden",),
    "post_feed_forward_norm": ("hidden",),
}


def axes_of(name: str) -> tuple[str, ...]:
    """The axes of a tensor by its name inside the block; every expert has an inner axis of its own."""
    prefix, dot, last = name.rpartition(".")
    return tuple(f"{prefix}{dot}{axis}" if axis == "inner" else axis for axis in TENSOR_AXES[last])


def select(tensor: Tensor, name: str, chosen: Mapping[str, Tensor]) -> Tensor:
    """The indices `chosen` (int64, by axis) of a tensor's dimensions; other axes stay whole.

    name: inside the block or the model.
    """
    for dimension, axis in enumerate(axes_of(name)):
        if axis in chosen:
            tensor = tensor.index_select(dimension, chosen[axis])
    return tensor


def scaled_norm(weight: Tensor, offset: float, gain: Tensor | float) -> Tensor:
    """A norm's stored weight such that its outputs are `gain` times what they were; itself for a gain of 1.

    offset: what the family adds to the weight.
    """
    return weight * gain + offset * (gain - 1.0)


def divided_norm(weight: Tensor, offset: float, scales: Tensor) -> Tensor:
    """A norm's stored weight after its outputs are divided by channel scales (a gain would round twice)."""
    return (weight + offset) / scales - offset
