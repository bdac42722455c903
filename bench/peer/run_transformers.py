"""transformers in bf16, eager, with its own cache: what most people start from."""

from __future__ import annotations

import time

import torch
from transformers import AutoModelForCausalLM, DynamicCache


class TransformersRunner:
    """Implements worker.Runner."""

    def __init__(self, model: str, threads: int) -> None:
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).eval()
        self.vocab_size = self.model.config.vocab_size
        torch.manual_seed(0)

    def run(self, tokens: torch.Tensor, cache: DynamicCache) -> torch.Tensor:
        """Tokens [streams, n] after those in the cache; the likeliest next of each."""
        output = self.model(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return output.logits[:, -1].argmax(-1, keepdim=True)

    def prefill(self, prompt_tokens: int) -> float:
        tokens = torch.randint(self.vocab_size, (1, prompt_tokens))
        start = time.perf_counter()
        self.run(tokens, DynamicCache())
        return time.perf_counter() - start

    def decode(self, prompt_tokens: int, steps: int, streams: int) -> float:
        cache = DynamicCache()  # one prompt for all: what was read is copied, which no step can tell
        last = self.run(torch.randint(self.vocab_size, (1, prompt_tokens)), cache).repeat(streams, 1)
        cache.batch_repeat_interleave(streams)
        start = time.perf_counter()
        for _ in range(steps):
            last = self.run(last, cache)
        return (time.perf_counter() - start) / steps


def open_runner(model: str, threads: int) -> TransformersRunner:
    """A loaded checkpoint."""
    return TransformersRunner(model, threads)
