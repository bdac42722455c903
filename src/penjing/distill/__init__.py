"""Distillation: what a student learns from a teacher's outputs."""

from penjing.distill.losses import (
    DistillationLoss,
    distillation_loss,
    jensen_shannon,
    logit_mse,
    reverse_kl,
    sampled_cross_entropy,
    temperature_kl,
)
from penjing.verbs import make_callable

__all__ = [
    "DistillationLoss",
    "distillation_loss",
    "jensen_shannon",
    "logit_mse",
    "reverse_kl",
    "sampled_cross_entropy",
    "temperature_kl",
]

make_callable(__name__, "penjing.optimize.distilling", "distill")
