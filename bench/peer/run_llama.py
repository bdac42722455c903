"""llama.cpp through the low-level binding of llama-cpp-python: its batch interface, defaults otherwise."""

from __future__ import annotations

import time
from typing import Any

import llama_cpp
import numpy as np

BATCH_TOKENS = 2048  # llama.cpp's own default
CONTEXT_STEP = 256  # contexts are multiples of it


class LlamaRunner:
    """Implements worker.Runner."""

    def __init__(self, model: str, threads: int) -> None:
        llama_cpp.llama_backend_init()
        options = llama_cpp.llama_model_default_params()
        options.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(model.encode(), options)
        if not self.model:
            raise RuntimeError(f"llama.cpp does not load {model}")
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.threads = threads
        self.contexts: dict[tuple[int, int], Any] = {}
        self.rng = np.random.default_rng(0)

    def context(self, streams: int, tokens: int) -> Any:
        """An empty context for so many sequences of so many tokens; kept, and cleared when used again."""
        room = -(-tokens // CONTEXT_STEP) * CONTEXT_STEP
        if (streams, room) not in self.contexts:
            options = llama_cpp.llama_context_default_params()
            options.n_ctx, options.n_seq_max = streams * room, streams
            options.n_batch = BATCH_TOKENS
            options.n_threads = options.n_threads_batch = self.threads
            self.contexts[streams, room] = llama_cpp.llama_init_from_model(self.model, options)
        context = self.contexts[streams, room]
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        return context

    def run(self, context: Any, tokens: np.ndarray, first_position: int) -> np.ndarray:
        """Tokens [streams, n] of every sequence, from a position on; the likeliest next of each."""
        streams, count = tokens.shape
        batch = llama_cpp.llama_batch_init(tokens.size, 0, 1)
        batch.n_tokens = tokens.size
        for stream in range(streams):
            for offset in range(count):
                index = stream * count + offset
                batch.token[index] = int(tokens[stream, offset])
                batch.pos[index] = first_position + offset
                batch.n_seq_id[index] = 1
                batch.seq_id[index][0] = stream
                batch.logits[index] = offset == count - 1
        self.seconds = -time.perf_counter()
        failed = llama_cpp.llama_decode(context, batch)
        if failed:
            raise RuntimeError(f"llama_decode returned {failed}")
        last = [self.likeliest(context, stream * count + count - 1) for stream in range(streams)]
        self.seconds += time.perf_counter()
        llama_cpp.llama_batch_free(batch)
        return np.array(last)[:, None]

    def likeliest(self, context: Any, index: int) -> int:
        """The argmax of a batch entry's logits."""
        logits = llama_cpp.llama_get_logits_ith(context, index)
        return int(np.ctypeslib.as_array(logits, (self.vocab_size,)).argmax())

    def prefill(self, prompt_tokens: int) -> float:
        context = self.context(1, prompt_tokens + 1)
        self.run(context, self.rng.integers(0, self.vocab_size, (1, prompt_tokens)), 0)
        return self.seconds

    def decode(self, prompt_tokens: int, steps: int, streams: int) -> float:
        context = self.context(streams, prompt_tokens + steps)
        last = self.run(context, self.rng.integers(0, self.vocab_size, (streams, prompt_tokens)), 0)
        seconds = 0.0
        for step in range(steps):
            last = self.run(context, last, prompt_tokens + step)
            seconds += self.seconds
        return seconds / steps


def open_runner(model: str, threads: int) -> LlamaRunner:
    """A loaded GGUF file."""
    return LlamaRunner(model, threads)
