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

__all__ = [
    "DistillationLoss",
    "distillation_loss",
    "jensen_shannon",
    "logit_mse",
    "reverse_kl",
    "sampled_cross_entropy",
    "temperature_kl",
]
