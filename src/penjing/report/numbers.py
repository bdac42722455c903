"""Numbers as a reader wants them: a few digits, a unit, a true minus."""

from __future__ import annotations

import math
from collections.abc import Callable

MINUS = "\u2212"
NO_BREAK = "\u00a0"  # a number and its unit stay on one line
LEAST_POWER = -4  # of ten, that is written out
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
SI = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def significant(value: float, digits: int = 3) -> str:
    """So many digits at least: 12,345, 0.00123, 2.80×10⁻⁷."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    power = math.floor(math.log10(abs(value)))
    if power < LEAST_POWER:
        return minus(f"{value / 10.0**power:.{digits - 1}f}×{power_of_ten(power)}")
    return minus(f"{value:,.{max(0, digits - 1 - power)}f}")


def power_of_ten(power: int) -> str:
    """10 with a small exponent."""
    return "10" + str(power).translate(RAISED)


def power_at(value: float) -> str:
    """The nearest power of ten, as marks of logarithmic axes are."""
    return power_of_ten(round(math.log10(value)))


def round_number(value: float) -> str:
    """A number that is round already, as marks of axes are."""
    if value == 0:
        return "0"
    return significant(value, 1) if abs(value) < 10.0**LEAST_POWER else minus(f"{value:,.6g}")


def hundredths(fraction: float) -> str:
    """A round fraction in per cent, without the sign."""
    return round_number(100 * fraction)


def minus(number: str) -> str:
    """With a minus sign in place of a hyphen."""
    return number.replace("-", MINUS)


def signed(value: float, digits: int = 3) -> str:
    """A difference, with its sign."""
    return ("+" if value > 0 else "") + significant(value, digits)


def percent(fraction: float, places: int = 1) -> str:
    """A fraction as a percentage."""
    return minus(f"{100 * fraction:,.{places}f}%")


def percent_as_given(fraction: float) -> str:
    """A limit that somebody typed: 2% and not 2.00%."""
    return f"{100 * fraction:.6g}%"


def percent_at_most(fraction: float, rounded: Callable[[float], int] = math.ceil) -> str:
    """A bound, never rounded to less than it is (`rounded=math.floor`: to more); two places."""
    return minus(f"{rounded(round(fraction * 1e4, 6)) / 100:.2f}%")


def nbytes(count: float) -> str:
    """Decimal bytes."""
    return scaled(count, "B")


def scaled(value: float, unit: str, written: Callable[[float], str] = significant) -> str:
    """Three digits, or what `written` makes of them, and a decimal prefix."""
    factor, prefix = next((pair for pair in SI if value >= 0.9995 * pair[0]), (1.0, ""))
    return f"{written(value / factor)}{NO_BREAK}{prefix}{unit}"


def nearest_prefix(value: float) -> str:
    """A round number with a decimal prefix: 200G."""
    return scaled(value, "", round_number).replace(NO_BREAK, "")


def seconds(value: float) -> str:
    """A time in the unit that suits it."""
    for limit, factor, unit in ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms"), (120.0, 1.0, "s")):
        if value < limit:
            return f"{significant(factor * value)}{NO_BREAK}{unit}"
    return f"{significant(value / 60)}{NO_BREAK}min"


def ratio(after: float, before: float) -> str:
    """How many times: 2.1×."""
    return f"{significant(after / before, 2)}×"
