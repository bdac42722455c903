"""Bounds of a mean over tokens from units that are skewed: Student's t, and Hall's correction of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penjing.measure.stats import jackknife_error
from penjing.measure.student import student_critical, student_tail

Floats = NDArray[np.float64]
ERROR_SPENT = 0.8  # of the error that a claim is allowed; the rest is for tails that no sample shows
SKEWNESS_ALLOWANCE = 1.6  # a sample of a long tail shows less skewness than there is; by simulation


@dataclass(frozen=True)
class UnitMoments:
    """The ratio sum(S) / sum(n) of so many units, its jackknife standard error, and the skewness of units.

    mean, error: nats per token. skewness: of S - mean x n, as the sample shows it.
    """

    mean: float
    error: float
    skewness: float
    units: int

    def bounds(self, tail: float) -> tuple[float, float]:
        """The lower and the upper bound, each missed with probability `tail`."""
        return (
            self.mean - self.error * reach_of(tail, -self.skewness, self.units, self.units - 1),
            self.mean + self.error * reach_of(tail, self.skewness, self.units, self.units - 1),
        )

    def p_value(self, margin: float) -> float:
        """The tail at which the upper bound is `margin`: how likely so low a mean is if that is true."""
        if self.error == 0.0:
            return 0.0 if self.mean <= margin else 1.0
        distance = (margin - self.mean) / self.error
        transformed = -hall_transform(-distance, SKEWNESS_ALLOWANCE * self.skewness, self.units)
        return student_tail(min(distance, transformed), self.units - 1)


def reach_of(tail: float, skewness: float, units: int, degrees: int) -> float:
    """Standard errors from the mean to its bound, on the side where positive `skewness` hides a long tail."""
    critical = student_critical(tail, degrees)
    return max(critical, -hall_inverse(-critical, SKEWNESS_ALLOWANCE * skewness, units))


def moments_of(sums: Floats, counts: Floats) -> UnitMoments:
    """Of units with sums [units] of paired differences over so many tokens each [units]."""
    mean = float(sums.sum() / counts.sum())
    residuals = sums - mean * counts
    variance = float((residuals**2).mean())
    skewness = float((residuals**3).mean()) / variance**1.5 if variance > 0 else 0.0
    return UnitMoments(mean, jackknife_error(sums, counts), skewness, len(sums))


def hall_transform(t: float, skewness: float, units: int) -> float:
    """Of a t statistic: nearly Student's whatever the skewness; monotone (Hall 1992, a = 1/3 and b = 1/6)."""
    root = math.sqrt(units)
    u = t / root
    return root * (u + skewness * u**2 / 3 + skewness**2 * u**3 / 27 + skewness / (6 * units))


def hall_inverse(value: float, skewness: float, units: int) -> float:
    """The t statistic whose transform is `value`."""
    root = math.sqrt(units)
    if abs(skewness) < 1e-6:
        return value
    cube = 1 + skewness * (value / root - skewness / (6 * units))
    return root * 3 / skewness * (float(np.cbrt(cube)) - 1)
