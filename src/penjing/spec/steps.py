"""What a recipe can do to a checkpoint before it is quantized: prune, transfer, distill, train."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from penjing.spec.base import Fraction, Spec

Axis = Literal["groups", "channels", "hidden", "blocks"]
AXES: tuple[Axis, ...] = ("groups", "channels", "hidden", "blocks")
PruneMethod = Literal["magnitude", "wanda", "sparsegpt"]
LossKind = Literal["kl", "reverse_kl", "js", "mse"]

# What is asked for where nothing is said, of whole units and of single weights.
OF_UNITS: dict[str, object] = {
    "fraction": 0.25,
    "axes": ("channels",),
    "multiple": 32,
    "spread": "even",
    "importance": "gradient",
    "reconstruct": True,
}
OF_WEIGHTS: dict[str, object] = {"method": "sparsegpt"}


class PruneStep(Spec):
    """Take whole units out of the blocks, or set single weights to 0. Nothing is trained.

    Whole units: `fraction` of the blocks' parameters, at least. axes: what may become smaller. multiple: of
    which feed-forward and hidden widths stay. spread: `even` takes the same part of every axis and block,
    `ranked`, of groups and channels, what is worth least a parameter anywhere. importance: how units are
    judged. reconstruct: whether matrices make up for what they no longer read.

    Single weights: sparsity is the part that becomes 0; or the pattern N:M keeps N of every M inputs of a
    row. method: how they are chosen.
    """

    step: Literal["prune"] = "prune"
    sparsity: Fraction | None = Field(default=None, lt=1)
    pattern: str | None = Field(default=None, pattern=r"^[1-9][0-9]*:[1-9][0-9]*$")
    method: PruneMethod | None = Field(default=None, validate_default=True)
    fraction: Fraction | None = Field(default=None, lt=1, validate_default=True)
    axes: tuple[Axis, ...] | None = Field(default=None, min_length=1, validate_default=True)
    multiple: int | None = Field(default=None, gt=0, validate_default=True)
    spread: Literal["even", "ranked"] | None = Field(default=None, validate_default=True)
    importance: Literal["activation", "gradient"] | None = Field(default=None, validate_default=True)
    reconstruct: bool | None = Field(default=None, validate_default=True)

    @field_validator("pattern")
    @classmethod
    def keeps_some(cls, value: str | None, info: ValidationInfo) -> str | None:
        """One way to say how many, and no more than there are."""
        if value is None:
            return value
        if info.data.get("sparsity") is not None:
            raise ValueError("sparsity and pattern: give one of them")
        kept, group = map(int, value.split(":"))
        if kept > group:
            raise ValueError(f"{value!r} keeps more than there are; 2:4 keeps 2 of every 4")
        return value

    @field_validator(*OF_WEIGHTS, *OF_UNITS)
    @classmethod
    def of_one_kind(cls, value: object, info: ValidationInfo) -> object:
        """Whole units or single weights; what belongs to the other kind is left out."""
        name = str(info.field_name)
        single = (info.data.get("sparsity"), info.data.get("pattern")) != (None, None)
        if single == (name in OF_WEIGHTS):
            return (OF_WEIGHTS | OF_UNITS)[name] if value is None else value
        if value is None:
            return None
        if single:
            raise ValueError("sparsity and pattern keep the shape, and take no whole units: leave it out")
        raise ValueError("is for single weights: give sparsity or pattern with it")


class TransferStep(Spec):
    """Begin a model of another size: with the most important units, or with copies of units. Not trained.

    heads: of queries; key-value heads follow. parameters: a limit, above 1 in elements, else as a part of
    what there was, in its proportions; half, where no size is given. What is not given stays.
    """

    step: Literal["transfer"] = "transfer"
    layers: int | None = Field(default=None, gt=0)
    hidden: int | None = Field(default=None, gt=0)
    intermediate: int | None = Field(default=None, gt=0)
    heads: int | None = Field(default=None, gt=0)
    parameters: Fraction | None = Field(default=None, validate_default=True)

    @field_validator("parameters")
    @classmethod
    def say_everything(cls, value: float | None, info: ValidationInfo) -> float | None:
        """Sizes, or a limit."""
        sized = any(info.data.get(name) for name in ("layers", "hidden", "intermediate", "heads"))
        if sized and value is not None:
            raise ValueError("parameters say everything: give them without other sizes")
        return value if sized or value is not None else 0.5


class Paced(Spec):
    """How long and how fast a model learns.

    steps or minutes, not both; neither is 200 steps. minutes: as many steps as fit, by the time that the
    first ones take. learning_rate: at its highest; of Muon or, for adapters, of AdamW; None for one that is
    known to work. A step takes `batch` sequences of `sequence_tokens`.
    """

    steps: int | None = Field(default=None, gt=0)
    minutes: float | None = Field(default=None, gt=0)
    learning_rate: float | None = Field(default=None, gt=0)
    batch: int = Field(default=8, gt=0)
    sequence_tokens: int = Field(default=256, gt=1)

    @model_validator(mode="after")
    def check_one(self) -> Self:
        """A run has one length."""
        if self.steps is not None and self.minutes is not None:
            raise ValueError("steps and minutes: give one of them")
        return self


class DistillStep(Paced):
    """Learn from a teacher, in a recipe from the checkpoint that it began with.

    loss: `kl` covers what the teacher says, `reverse_kl` says nothing else, `js` lies between (beta: the
    teacher's part), `mse` compares logits. The weights are of that loss, of the text's next tokens, of the
    states after every block, and of the relations between heads. on_policy: the part of the batches that the
    student writes itself and the teacher grades.
    """

    step: Literal["distill"] = "distill"
    loss: LossKind = "kl"
    temperature: float = Field(default=1.0, gt=0)
    beta: float = Field(default=0.5, gt=0, lt=1)
    soft_weight: float = Field(default=1.0, ge=0)
    hard_weight: float = Field(default=0.5, ge=0)
    feature_weight: float = Field(default=0.0, ge=0)
    relation_weight: float = Field(default=0.0, ge=0)
    on_policy: float = Field(default=0.0, ge=0, le=1)

    @model_validator(mode="after")
    def check_weights(self) -> Self:
        """Something must be learned."""
        if not (self.soft_weight or self.hard_weight or self.feature_weight or self.relation_weight):
            raise ValueError("all weights are 0: nothing would be learned")
        if self.on_policy and not self.soft_weight:
            raise ValueError("what the student writes is graded by soft_weight, which is 0")
        return self


class TrainStep(Paced):
    """Learn the next token of text.

    lora_rank: train low-rank changes of the blocks' matrices instead, which are added to them at the end.
    from_scratch: begin with random weights of the same shape.
    """

    step: Literal["train"] = "train"
    lora_rank: int | None = Field(default=None, gt=0)
    from_scratch: bool = False

    @model_validator(mode="after")
    def check_beginning(self) -> Self:
        """Adapters need what they adapt."""
        if self.from_scratch and self.lora_rank is not None:
            raise ValueError(
                "adapters change what a model knows: leave out either them or the random beginning"
            )
        return self
