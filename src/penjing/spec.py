"""What is asked for: recipes (how to compress) and budgets (what must hold), as small frozen values.

Both read YAML and JSON alike and refuse unknown keys: a misspelt option is an error and not a default.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from penjing.errors import SpecError

GroupSize = Literal[32, 64, 128]
CodedFormatName = Literal[  # a weight is a code, and groups have scales
    "int2",
    "int3",
    "int4",
    "int5",
    "int6",
    "int8",
    "layered",
    "table2",
    "table3",
    "table4",
    "nf4",
    "mxfp4",
    "fp8",
]
WeightFormatName = Literal["keep", CodedFormatName]
WITH_ZERO_POINTS = ("int2", "int3", "int4", "int5", "int6", "int8")  # formats that may be asymmetric
KvFormat = Literal["int8", "int6", "int5", "int4", "bf16", "fp32"]
MethodName = Literal[
    "rtn", "range", "mse", "percentile", "search", "awq", "smoothquant", "gptq", "qronos", "auto"
]
DATA_FREE = ("rtn", "range", "mse", "percentile", "search")  # methods that look at weights alone
FloatFormat = Literal["fp32", "fp16", "bf16"]
Tier = Literal["fast", "best"]
TIERS: tuple[Tier, ...] = ("fast", "best")


class Spec(BaseModel):
    """Frozen, and strict about names. Validators are built on first use: most programs use few of them."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class WeightFormat(Spec):
    """How one kind of matrix is stored.

    `keep` is the checkpoint's own dtype and has no groups: its group_size is always 64, so that recipes that
    do the same are the same. `mxfp4` has groups of 32, as its standard says. asymmetric: whether each group
    has a zero point beside its scale, w = s (u - zero).
    """

    name: WeightFormatName = "int4"
    group_size: GroupSize = Field(default=64, validate_default=True)
    asymmetric: bool = False

    @field_validator("group_size")
    @classmethod
    def without_groups(cls, value: GroupSize, info: ValidationInfo) -> GroupSize:
        """One spelling for formats that leave no choice."""
        fixed: dict[str, GroupSize] = {"keep": 64, "mxfp4": 32}
        return fixed.get(info.data.get("name", ""), value)

    @field_validator("asymmetric")
    @classmethod
    def with_zero_points(cls, value: bool, info: ValidationInfo) -> bool:
        """Zero points belong to whole-number grids that are not layered."""
        name = info.data.get("name", "int4")
        if value and name not in WITH_ZERO_POINTS:
            raise ValueError(f"{name} has no zero points; use one of {', '.join(WITH_ZERO_POINTS)}")
        return value


class Override(Spec):
    """Another format for the matrices whose canonical names (`blocks.0.query`, `head`) match a glob."""

    match: str
    weights: WeightFormat


class Calibration(Spec):
    """The text that a method sees: `tokens` in sequences of `sequence_tokens`.

    self_written: the part that the model writes itself, where no text is given; the rest is built in.
    """

    tokens: int = Field(default=32768, ge=1)
    sequence_tokens: int = Field(default=512, ge=2)
    self_written: float = Field(default=0.5, ge=0, le=1)


class KvFormats(Spec):
    """How keys and values are cached, where it is not in the same format."""

    key: KvFormat
    value: KvFormat


def one_spelling(kv: KvFormat | KvFormats) -> KvFormat | KvFormats:
    """One name for two equal formats: recipes that do the same are the same."""
    return kv.key if isinstance(kv, KvFormats) and kv.key == kv.value else kv


Kv = Annotated[KvFormat | KvFormats, AfterValidator(one_spelling)]


class QuantizeStep(Spec):
    """Round every matrix to a grid.

    `embedding` also covers the output head. `overrides` come after both; of several that match, the last
    one counts. `method`: `search` (least squared error over a grid of scales, each rounded to fp16 first),
    `range` (the largest magnitude sets the scale) and others of DATA_FREE look at weights alone; the rest
    need `calibration`, and take `search` for embedding and head. `damping`: added to the diagonal of Gram
    matrices, in parts of its mean. `tuning_steps`: of tuning the whole model after its blocks, for `auto`;
    None leaves it to the size of the model.
    `kv` is the format of the KV cache: `int8`, or one for keys and one for values, as
    `{key: int6, value: int4}`.
    """

    step: Literal["quantize"] = "quantize"
    weights: WeightFormat = WeightFormat()
    embedding: WeightFormat = WeightFormat(name="int8")
    overrides: tuple[Override, ...] = ()
    method: MethodName = "search"
    damping: float = Field(default=0.01, gt=0)
    calibration: Calibration | None = Field(default=None, validate_default=True)
    tuning_steps: int | None = Field(default=None, ge=0, validate_default=True)
    kv: Kv = "int8"

    @property
    def kv_formats(self) -> KvFormats:
        """The cache's formats, spelt out."""
        return self.kv if isinstance(self.kv, KvFormats) else KvFormats(key=self.kv, value=self.kv)

    @property
    def needs_data(self) -> bool:
        """Whether the method looks at activations."""
        return self.method not in DATA_FREE

    @field_validator("calibration")
    @classmethod
    def where_needed(cls, value: Calibration | None, info: ValidationInfo) -> Calibration | None:
        """Methods that look at activations have a calibration, the default one at least; others have none."""
        method = info.data.get("method", "search")
        if method in DATA_FREE and value is not None:
            raise ValueError(f"the method {method} takes no calibration; leave it out")
        return Calibration() if value is None and method not in DATA_FREE else value

    @field_validator("tuning_steps")
    @classmethod
    def of_auto(cls, value: int | None, info: ValidationInfo) -> int | None:
        """Only `auto` tunes."""
        if info.data.get("method") != "auto" and value:
            raise ValueError("only the method auto tunes the whole model; leave it out")
        return value


class Recipe(Spec):
    """An ordered list of steps, and the seed from which every random choice is drawn."""

    steps: tuple[QuantizeStep, ...] = Field(min_length=1)
    seed: int = Field(default=0, ge=0, lt=2**63)


def preset(
    name: WeightFormatName,
    group_size: GroupSize = 64,
    asymmetric: bool = False,
    kv: Kv | None = None,
    method: MethodName = "search",
) -> Recipe:
    """The recipe behind `penjing quantize --format NAME`; `asymmetric`: zero points in the blocks' matrices.

    `keep` changes nothing: weights in their own dtype and an fp32 KV cache, the reference everything is
    measured against. Otherwise the embedding and head, which carry most of the damage at 4 bits and little
    of the size in large models, stay at 8 bits, and so does the KV cache. Raises SpecError for a format that
    cannot have zero points.
    """
    if name == "keep":
        keep = WeightFormat(name="keep")
        return Recipe(steps=(QuantizeStep(weights=keep, embedding=keep, kv=kv or "fp32"),))
    wanted = {"name": name, "group_size": group_size, "asymmetric": asymmetric}
    weights = validate(WeightFormat, wanted, "format")
    embedding = WeightFormat(name="int8", group_size=group_size)
    step = QuantizeStep(weights=weights, embedding=embedding, method=method, kv=kv or "int8")
    return Recipe(steps=(step,))


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


S = TypeVar("S", bound=Spec)
Fraction = Annotated[float, BeforeValidator(parse_fraction), Field(gt=0)]
SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
BYTES = {"KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "B": 1.0}


def parse_with_units(value: object, units: dict[str, float], example: str) -> object:
    """A number with one of these units, as `25ms`; a plain number is in the last of them."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    unit = next((unit for unit in units if text.lower().endswith(unit.lower())), "")
    try:
        return float(text.removesuffix(text[len(text) - len(unit) :])) * (units[unit] if unit else 1.0)
    except ValueError:
        raise ValueError(f"{value!r} is no number with a unit, like {example}") from None


def parse_seconds(value: object) -> object:
    """Accept `25ms` and 0.025 alike."""
    return parse_with_units(value, SECONDS, "25ms or 0.5s")


def parse_bytes(value: object) -> object:
    """Accept `4GiB` and 4294967296 alike."""
    found = parse_with_units(value, BYTES, "4GiB or 500MB")
    return int(found) if isinstance(found, float) and math.isfinite(found) else found


Seconds = Annotated[float, BeforeValidator(parse_seconds), Field(gt=0, allow_inf_nan=False)]
Bytes = Annotated[int, BeforeValidator(parse_bytes), Field(gt=0)]
Objective = Literal["size", "loss", "latency", "throughput", "cost"]


class Budget(Spec):
    """What an artifact must satisfy to be published.

    max_size: all tensor bytes of the artifact over the checkpoint's tensor bytes.
    max_loss: the upper confidence bound of the mean paired NLL difference per token is at most
    ln(1 + max_loss), that is, perplexity rises by at most this fraction.
    confidence: of that one-sided bound.
    max_latency: seconds between two tokens of one answer, while `streams` are being written.
    min_throughput: decoded tokens a second, of all `streams` together.
    max_ram: bytes of physical memory of a process that serves them.
    """

    max_size: Fraction | None = None
    max_loss: Fraction | None = None
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)
    max_latency: Seconds | None = None
    min_throughput: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    max_ram: Bytes | None = None
    streams: int = Field(default=1, ge=1, le=256)

    @property
    def limits_anything(self) -> bool:
        """Whether there is a limit to keep."""
        limits = (self.max_size, self.max_loss, self.max_latency, self.min_throughput, self.max_ram)
        return any(limit is not None for limit in limits)

    @property
    def max_seconds(self) -> float | None:
        """The most seconds of a decoding step: what latency and throughput ask for, whichever is less."""
        limits = [self.max_latency] if self.max_latency is not None else []
        if self.min_throughput is not None:
            limits.append(self.streams / self.min_throughput)
        return min(limits, default=None)

    @property
    def max_nll_increase(self) -> float | None:
        """The loss budget in nats per token."""
        return None if self.max_loss is None else math.log1p(self.max_loss)


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


def read_recipe(path: Path) -> Recipe:
    """Read a recipe from a YAML or JSON file. Raises SpecError for anything but a valid recipe."""
    import yaml

    try:
        data: Any = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"recipe {path}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        raise SpecError(f"recipe {path}: not YAML or JSON ({' '.join(str(error).split())})") from None
    return validate(Recipe, data, f"recipe {path}")


def canonical_json(value: BaseModel | dict[str, Any]) -> str:
    """The one spelling of a value: sorted keys, no spaces. Hashes are taken over this."""
    data = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
