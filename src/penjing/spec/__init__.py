"""What is asked for: recipes (how to compress) and budgets (what must hold), as small frozen values.

Both read YAML and JSON alike and refuse unknown keys: a misspelt option is an error and not a default.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from penjing.errors import SpecError
from penjing.spec.base import Fraction as Fraction
from penjing.spec.base import Spec as Spec
from penjing.spec.base import canonical_json as canonical_json
from penjing.spec.base import describe as describe
from penjing.spec.base import validate as validate
from penjing.spec.budget import Budget as Budget
from penjing.spec.budget import Bytes as Bytes
from penjing.spec.budget import Objective as Objective
from penjing.spec.budget import Seconds as Seconds
from penjing.spec.steps import DistillStep as DistillStep
from penjing.spec.steps import PruneStep as PruneStep
from penjing.spec.steps import TrainStep as TrainStep
from penjing.spec.steps import TransferStep as TransferStep

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


ShapingStep = PruneStep | TransferStep | DistillStep | TrainStep  # from a checkpoint to a checkpoint
AnyStep = Annotated[ShapingStep | QuantizeStep, Field(discriminator="step")]


def quantize_by_default(value: object) -> object:
    """A step that does not say what it is quantizes."""
    return {"step": "quantize", **value} if isinstance(value, dict) else value


Step = Annotated[AnyStep, BeforeValidator(quantize_by_default)]


class Recipe(Spec):
    """An ordered list of steps, and the seed from which every random choice is drawn."""

    steps: tuple[Step, ...]
    seed: int = Field(default=0, ge=0, lt=2**63)

    @field_validator("steps")
    @classmethod
    def quantize_last(cls, value: tuple[Step, ...]) -> tuple[Step, ...]:
        """There is a step, and what is quantized is not changed further."""
        if not value:
            raise ValueError("give at least one")
        if any(isinstance(step, QuantizeStep) for step in value[:-1]):
            raise ValueError("quantize comes last: what is quantized is no longer a checkpoint")
        return value

    @property
    def shaping(self) -> tuple[ShapingStep, ...]:
        """The steps that come before quantizing."""
        return tuple(step for step in self.steps if not isinstance(step, QuantizeStep))

    @property
    def quantizing(self) -> QuantizeStep:
        """The step that ends in an artifact. Raises SpecError for a recipe that ends in a checkpoint."""
        step = self.steps[-1]
        if not isinstance(step, QuantizeStep):
            raise SpecError("recipe: its last step does not quantize, so that no artifact comes of it")
        return step


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
