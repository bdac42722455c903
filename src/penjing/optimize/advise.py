"""What should I do with this model on this machine? In seconds, from costs measured here and losses known.

Sizes are exact, speeds are predicted (predict.py), losses are those of the embedded model (docs/quality.md):
what yours will lose only a measurement tells, and `optimize` is that measurement.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from penjing.artifact import Artifact, ModelConfig, is_artifact
from penjing.artifact.config import count_parameters
from penjing.engine.memory import available_bytes
from penjing.measure.cost_table import CostTable
from penjing.measure.machine import cpu_model, measure_read_bandwidth, usable_cores, usable_memory_bytes
from penjing.models import Checkpoint
from penjing.optimize.predict import Predicted, cost_table, formats_of, predict
from penjing.optimize.progress import Progress, silent
from penjing.optimize.recommending import LARGE_PARAMETERS, choose
from penjing.optimize.ways import KNOWN, Known, Risk, is_dense, pruned
from penjing.quantize.assignment import assign_formats
from penjing.spec import FloatFormat, KvFormats, Spec, Tier, WeightFormat, preset

MOST_PROMPT_TOKENS = 512
MEMORY_SHARE = 0.9  # of the machine's memory that a service may have
STAGE = "measuring this machine"


class Option(Spec):
    """One thing to do, and what is to be expected of it.

    perplexity_rise: what it cost the embedded model, a fraction; None for nothing to compare. size_ratio:
    over the model as it is. fits: whether serving fits this machine's memory. commands: in order.
    """

    name: str
    what: str
    risk: Risk
    perplexity_rise: float | None
    tensor_bytes: int
    size_ratio: float
    predicted: Predicted
    fits: bool
    commands: tuple[str, ...]


class Advice(Spec):
    """Options, the first is the model as it is; which of them is recommended, and why.

    table_hash: of the measured costs behind the predictions.
    """

    model: str
    family: str
    parameters: int
    kind: Literal["checkpoint", "artifact"]
    cpu: str
    threads: int
    memory_bytes: int
    free_memory_bytes: int
    read_bytes_per_second: float
    context_tokens: int
    prompt_tokens: int
    streams: int
    options: tuple[Option, ...]
    recommended: str
    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    table_hash: str


@dataclass(frozen=True)
class Subject:
    """The model that advice is asked for. own: dtypes of matrices that keep theirs."""

    model: str
    config: ModelConfig
    tensor_bytes: int
    own: dict[str, FloatFormat]
    artifact: Artifact | None = None


def advise(
    model: str | Path,
    *,
    context: int | None = None,
    streams: int = 1,
    threads: int | None = None,
    table: CostTable | None = None,
    progress: Progress = silent,
) -> Advice:
    """Options for a checkpoint, an artifact or `seedling` on this machine, and one recommended.

    context: tokens in the cache while decoding; None for 2,048, or the model's most. The prompt whose wait is
    predicted has as many, at most 512. What the table of costs lacks is measured, a few seconds a format.
    Raises ArtifactError, CheckpointError.
    """
    subject = find_subject(model)
    context = min(context or 2048, subject.config.max_positions - 1)
    prompt = max(1, min(context, MOST_PROMPT_TOKENS))
    table = table or cost_table(threads)
    speed = measure_read_bandwidth(table.key.threads)

    def expect(
        config: ModelConfig,
        formats: dict[str, WeightFormat],
        kv: KvFormats | None,
        own: dict[str, FloatFormat],
        tier: Tier,
    ) -> Predicted:
        return predict(
            config,
            formats,
            kv,
            table,
            context=context,
            prompt=prompt,
            streams=streams,
            own=own,
            tier=tier,
            read_bytes_per_second=speed,
        )

    options = list_options(subject, expect, progress)
    parameters = count_parameters(subject.config)
    recommended, reasons = choose(options, parameters, is_artifact=subject.artifact is not None)
    return Advice(
        model=str(model),
        family=subject.config.family,
        parameters=parameters,
        kind="checkpoint" if subject.artifact is None else "artifact",
        cpu=f"{cpu_model()}, {table.key.isa}",
        threads=table.key.threads,
        memory_bytes=usable_memory_bytes(),
        free_memory_bytes=available_bytes(),
        read_bytes_per_second=speed,
        context_tokens=context,
        prompt_tokens=prompt,
        streams=streams,
        options=tuple(options),
        recommended=recommended,
        reasons=reasons,
        notes=notes_on(parameters, table, options),
        table_hash=table.hash,
    )


Expect = Callable[
    [ModelConfig, dict[str, WeightFormat], KvFormats | None, dict[str, FloatFormat], Tier], Predicted
]


def find_subject(model: str | Path) -> Subject:
    """Raises ArtifactError or CheckpointError."""
    if is_artifact(model):
        artifact = Artifact.open(model, verify="none")
        own = formats_of(artifact)[1]
        return Subject(str(model), artifact.config, artifact.tensor_bytes, own, artifact)
    checkpoint = Checkpoint.open(model)
    return Subject(str(model), checkpoint.config, checkpoint.tensor_bytes, dict(checkpoint.formats))


def list_options(subject: Subject, expect: Expect, progress: Progress) -> list[Option]:
    """As it is, and what it could become; of an artifact, what its checkpoint could become instead."""
    steps = [known for known in KNOWN if not known.pruned or is_dense(subject.config)]
    options = as_it_is(subject, expect)
    here = {option.name for option in options}
    for index, known in enumerate(steps):
        progress(STAGE, index, len(steps))
        if known.name not in here:
            options.append(become(subject, known, expect))
    progress(STAGE, len(steps), len(steps))
    return options


def as_it_is(subject: Subject, expect: Expect) -> list[Option]:
    """A checkpoint in its own dtype, an artifact at each of its tiers."""
    if subject.artifact is None:
        formats = assign_formats(subject.config, preset("keep").quantizing)
        found = expect(subject.config, formats, KvFormats(key="fp32", value="fp32"), subject.own, "best")
        what = "nothing changed, in its own dtype"
        return [
            option(
                subject,
                "as it is",
                what,
                risk="none",
                found=found,
                commands=(f"penjing serve {subject.model}",),
            )
        ]
    formats, own = formats_of(subject.artifact)
    options = []
    for tier in reversed(subject.artifact.tiers):
        layered = len(subject.artifact.tiers) > 1
        found = expect(subject.config, formats, None, own, tier)
        options.append(
            option(
                subject,
                f"as it is, {tier}" if layered else "as it is",
                "this artifact" if not layered else f"this artifact, tier {tier}",
                risk="none" if tier == "best" else "small",
                found=found,
                commands=(f"penjing serve {subject.model}",),
            )
        )
    return options


def become(subject: Subject, known: Known, expect: Expect) -> Option:
    """What a known way would make of the model."""
    config = pruned(subject.config) if known.pruned else subject.config
    step = preset(known.format).quantizing
    found = expect(config, assign_formats(config, step), step.kv_formats, subject.own, "best")
    source = subject.model if subject.artifact is None else "CHECKPOINT"
    return option(
        subject,
        known.name,
        known.what,
        risk=known.risk,
        found=found,
        commands=known.commands(source),
        rise=known.perplexity_rise,
    )


def option(
    subject: Subject,
    name: str,
    what: str,
    *,
    risk: Risk,
    found: Predicted,
    commands: tuple[str, ...],
    rise: float | None = None,
) -> Option:
    """Beside the model as it is, and this machine's memory."""
    return Option(
        name=name,
        what=what,
        risk=risk,
        perplexity_rise=rise,
        tensor_bytes=found.tensor_bytes,
        size_ratio=found.tensor_bytes / subject.tensor_bytes,
        predicted=found,
        fits=found.peak_memory_bytes <= MEMORY_SHARE * usable_memory_bytes(),
        commands=commands,
    )


def notes_on(parameters: int, table: CostTable, options: list[Option]) -> tuple[str, ...]:
    """What to keep in mind."""
    notes = []
    if table.busy:
        notes.append("The machine was busy while its kernels were timed: ask again when it is quiet.")
    notes += [
        "Loss is the rise of perplexity that each way cost Seedling, a model of 5 million parameters. "
        + (
            "Larger models usually lose less"
            if parameters >= LARGE_PARAMETERS
            else "A small model may lose as much, or more"
        )
        + "; only measuring tells: `penjing optimize` does, and certifies it.",
        "Speeds are predicted from kernels timed on this machine; `penjing bench` measures.",
    ]
    free = available_bytes()
    if any(option.fits and option.predicted.peak_memory_bytes > free for option in options):
        notes.append(f"Only {free / 1e9:.1f} GB of memory are free just now; some options need more.")
    if usable_cores() < table.key.threads:
        notes.append(f"{table.key.threads} threads share {usable_cores()} cores here.")
    return tuple(notes)
