"""What all specs share: frozen values that refuse unknown names, and errors on one line."""

from __future__ import annotations

import json
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from penjing.errors import SpecError


class Spec(BaseModel):
    """Frozen, and strict about names. Validators are built on first use: most programs use few of them."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


S = TypeVar("S", bound=Spec)


def parse_fraction(value: object) -> object:
    """Accept `30%` and `0.3` alike."""
    if isinstance(value, str):
        text = value.strip()
        scale = 0.01 if text.endswith("%") else 1.0
        try:
            number = float(text.rstrip("%")) * scale
        except ValueError:
            raise ValueError(f"{value!r} is neither a percentage (30%) nor a fraction (0.3)") from None
        return number
    return value


Fraction = Annotated[float, BeforeValidator(parse_fraction), Field(gt=0)]


def validate(kind: type[S], data: object, source: str) -> S:
    """Build a spec from plain data; every complaint on one line, naming its place."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise SpecError(f"{source}: {describe(error)}") from None


def describe(error: ValidationError) -> str:
    """A pydantic error on one line: `place: what is wrong; place: what is wrong`."""
    parts = [f"{'.'.join(map(str, item['loc'])) or 'value'}: {item['msg']}" for item in error.errors()]
    return "; ".join(parts)


def canonical_json(value: BaseModel | dict[str, Any]) -> str:
    """The one spelling of a value: sorted keys, no spaces. Hashes are taken over this."""
    data = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
