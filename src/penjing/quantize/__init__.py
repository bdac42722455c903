"""Quantization: techniques that turn a checkpoint's weights into codes and scales."""

from __future__ import annotations

import sys
from types import ModuleType

from penjing.quantize.walk import quantize_checkpoint

__all__ = ["quantize_checkpoint"]


class Verb(ModuleType):
    """The package is also its main function: `penjing.quantize(...)`, whichever was imported first."""

    __call__ = staticmethod(quantize_checkpoint)


sys.modules[__name__].__class__ = Verb
