"""Which format every matrix of a model gets, from a recipe's step."""

from __future__ import annotations

from fnmatch import fnmatchcase

from penjing.artifact import ModelConfig, TensorRole, expected_tensors
from penjing.errors import SpecError
from penjing.spec import QuantizeStep, WeightFormat

KEEP = WeightFormat(name="keep")
FUSED = (("query", "key", "value"), ("gate", "up"))  # computed together, from the same rounded inputs


def assign_formats(config: ModelConfig, step: QuantizeStep) -> dict[str, WeightFormat]:
    """The format of every matrix by canonical name, in the order of execution.

    Of several overrides that match a name, the last one counts. Raises SpecError for a pattern that matches
    no matrix that could have a format, and for fused matrices of different formats, naming them.
    """
    roles = {name: role for name, role in expected_tensors(config).items() if role.is_matrix}
    formats = {name: format_by_default(step, name, role) for name, role in roles.items()}
    for override in step.overrides:
        matched = [
            name for name, role in roles.items() if not role.keeps_dtype and fnmatchcase(name, override.match)
        ]
        if not matched:
            raise SpecError(
                f"override {override.match!r} matches no matrix; names look like blocks.0.query, head"
            )
        formats |= dict.fromkeys(matched, override.weights)
    check_fused(formats)
    return formats


def format_by_default(step: QuantizeStep, name: str, role: TensorRole) -> WeightFormat:
    """Before overrides: embedding and head have a format of their own, and some matrices keep their dtype."""
    if role.keeps_dtype:
        return KEEP
    return step.embedding if name in ("embedding", "head") else step.weights


def check_fused(formats: dict[str, WeightFormat]) -> None:
    """Raise SpecError unless matrices that are computed together have one format."""
    for name, format in formats.items():
        prefix, _, last = name.rpartition(".")
        for group in FUSED:
            first = f"{prefix}.{group[0]}"
            if last in group and formats[first] != format:
                raise SpecError(
                    f"{first} is {label(formats[first])} and {name} {label(format)}: they are computed "
                    "together; give both one format"
                )


def label(format: WeightFormat) -> str:
    """A format in a few words."""
    kind = " asymmetric" if format.asymmetric else ""
    return format.name if format.name == "keep" else f"{format.name}/{format.group_size}{kind}"
