"""Parameter transfer: copy parameters between models by name and shape, and account for every one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from penjing.formats.namespace import Array, namespace


@dataclass(frozen=True)
class Kept:
    """A parameter of the target that keeps its own values, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Transfer:
    """What became of every name: each of the target's is in `copied` or `kept`.

    unused: names of the source that the target does not have.
    """

    copied: tuple[str, ...]
    kept: tuple[Kept, ...]
    unused: tuple[str, ...]


def transfer_parameters(source: Mapping[str, Array], target: Mapping[str, Array]) -> Transfer:
    """Copy in place, into `target`'s arrays, every parameter whose name, shape, dtype and library agree.

    Both map names to numpy arrays or to torch tensors (a module's `state_dict()`, whose tensors share its
    memory). Shapes must be equal: assignment alone would broadcast a [1] or a [K] into a [N, K]. Nothing is
    converted, so that no value changes on the way. Names are reported in the mappings' order.
    """
    copied, kept = [], []
    for name, destination in target.items():
        obstacle = mismatch(source.get(name), destination)
        if obstacle is not None:
            kept.append(Kept(name, obstacle))
            continue
        destination[...] = source[name]
        copied.append(name)
    return Transfer(tuple(copied), tuple(kept), tuple(name for name in source if name not in target))


def mismatch(origin: Array | None, destination: Array) -> str | None:
    """Why `origin` cannot be copied into `destination`, or None."""
    if origin is None:
        return "the source has no parameter of this name"
    if namespace(origin) is not namespace(destination):
        return "one is a numpy array, the other a torch tensor"
    if tuple(origin.shape) != tuple(destination.shape):
        return f"shape {list(origin.shape)} in the source, {list(destination.shape)} here"
    if origin.dtype != destination.dtype:
        return f"dtype {origin.dtype} in the source, {destination.dtype} here"
    return None
