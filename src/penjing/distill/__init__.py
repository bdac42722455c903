"""Distillation: what a student learns from a teacher's outputs."""

from penjing.distill.losses import DistillationLoss, distillation_loss, logit_mse, temperature_kl

__all__ = ["DistillationLoss", "distillation_loss", "logit_mse", "temperature_kl"]
