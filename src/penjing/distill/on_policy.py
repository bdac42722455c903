"""On-policy distillation: the teacher grades what the student itself writes (Agarwal et al. 2024).

A student that only ever reads the teacher's text never sees its own mistakes, and never learns to recover.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from penjing.distill.lessons import Lesson
from penjing.distill.losses import DistillationLoss
from penjing.errors import SpecError
from penjing.models.trainable import TrainableModel
from penjing.spec import Spec

# Prompts int64 [sequences, p], a number of tokens n and a seed, to int64 [sequences, p + n].
Writer = Callable[[Tensor, int, int], Tensor]


class OnPolicy(Spec):
    """fraction: of the batches that the student writes, after prompts of `prompt_length` tokens of the text,
    `written_length` tokens. loss: how the teacher grades them.
    """

    fraction: float = Field(default=0.5, gt=0, le=1)
    prompt_length: int = Field(default=64, gt=0)
    written_length: int = Field(default=64, gt=0)
    loss: DistillationLoss = DistillationLoss(kind="reverse_kl")
    seed: int = Field(default=0, ge=0)

    def is_turn(self, batch: int) -> bool:
        """Whether the student writes this batch; its turns are spread evenly."""
        return math.floor((batch + 1) * self.fraction) > math.floor(batch * self.fraction)


def written_lesson(lesson: Lesson, batch: int, config: OnPolicy, write: Writer) -> Lesson:
    """A lesson whose sequences begin like those of `lesson`, and whose counted rest the student wrote.

    Raises SpecError where `write` does not return the prompts and so many tokens more.
    """
    prompts = lesson.tokens[:, : config.prompt_length]
    seed = int(np.random.SeedSequence([config.seed, batch]).generate_state(1)[0])
    tokens = write(prompts, config.written_length, seed)
    shape = (len(prompts), config.prompt_length + config.written_length)
    if tuple(tokens.shape) != shape or not torch.equal(tokens[:, : config.prompt_length], prompts):
        raise SpecError(f"a writer must return its prompts and what follows, {list(shape)} tokens in all")
    mask = torch.arange(shape[1] - 1) >= config.prompt_length - 1
    return Lesson(lesson.numbers, tokens, mask.expand(shape[0], -1), is_own=True)


@torch.no_grad()
def write_continuations(model: TrainableModel, prompts: Tensor, num_tokens: int, seed: int) -> Tensor:
    """Sample `num_tokens` tokens at temperature 1 after each prompt, int64 [sequences, p]; [.., p + n].

    Plain: the whole sequence is computed again for every token, and an end-of-text token is followed by the
    next document, as in packed text.
    """
    generator, was_training = torch.Generator().manual_seed(seed), model.training
    model.eval()
    tokens = prompts
    for _ in range(num_tokens):
        chances = model.model.logits(model.hidden_states(tokens)[-1][:, -1]).softmax(-1)
        tokens = torch.cat([tokens, torch.multinomial(chances, 1, generator=generator)], 1)
    model.train(was_training)
    return tokens
