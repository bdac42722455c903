"""What an engine refuses at the door: settings that cannot work, requests it could never serve."""

from __future__ import annotations

from collections.abc import Sequence

from penjing.artifact import Artifact, ModelConfig
from penjing.engine.pages import pages_for
from penjing.engine.sampling import Sampling
from penjing.errors import CapacityError, InputError, PromptTooLongError, SamplingError, SpecError
from penjing.spec import Tier


def check_limits(
    num_pages: int | None, max_step_tokens: int, max_sequences: int, max_queue: int, max_stretch: float
) -> None:
    """Raises SpecError for an engine that could not work."""
    if num_pages is not None and num_pages < 1:
        raise SpecError(f"num_pages is {num_pages}: it must be at least 1")
    if max_sequences < 1 or max_queue < 1:
        raise SpecError(f"max_sequences={max_sequences}, max_queue={max_queue}: both must be at least 1")
    if max_step_tokens < max_sequences:
        raise SpecError(
            f"max_step_tokens={max_step_tokens} is below max_sequences={max_sequences}: "
            "a step needs a token for every running sequence"
        )
    if not max_stretch > 1:
        raise SpecError(
            f"max_stretch={max_stretch}: it must be above 1, for prompts need room beside answers in progress"
        )


def check_tier(tier: Tier, artifact: Artifact) -> Tier:
    """The tier itself. Raises SpecError if the artifact cannot run at it."""
    if tier not in artifact.tiers:
        raise SpecError(f"tier {tier!r}: {artifact.path} runs at {' or '.join(artifact.tiers)} only")
    return tier


def check_tokens(tokens: Sequence[int], most: int, config: ModelConfig) -> None:
    """Raises InputError (no tokens, unknown ids) and PromptTooLongError."""
    if len(tokens) == 0:
        raise InputError("there are no tokens: give at least one")
    if len(tokens) > most:
        raise PromptTooLongError(
            f"{len(tokens)} tokens, but at most {most} fit the model's context of {config.max_positions}: "
            "shorten the text"
        )
    if min(tokens) < 0 or max(tokens) >= config.vocab_size:
        raise InputError(f"a token id is outside the vocabulary of {config.vocab_size}")


def check_fits(num_prompt_tokens: int, sampling: Sampling, num_pages: int, config: ModelConfig) -> None:
    """Every sequence must fit the pages alone; the last token that it generates is never run.

    Raises CapacityError, and SamplingError for a logit_bias outside the vocabulary.
    """
    needed = pages_for(min(num_prompt_tokens + sampling.max_tokens, config.max_positions) - 1)
    if needed > num_pages:
        raise CapacityError(
            f"a prompt of {num_prompt_tokens} tokens with max_tokens={sampling.max_tokens} needs {needed} "
            f"KV pages and the engine has {num_pages}: ask for less, or raise num_pages"
        )
    if any(token >= config.vocab_size for token in sampling.logit_bias):
        raise SamplingError(f"logit_bias names a token outside the vocabulary of {config.vocab_size}")
