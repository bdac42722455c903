"""Milliseconds to choose a token from one row of logits: `python bench/sampling.py [VOCABULARY]`.

Logits are normal with a standard deviation of 3, which is flatter than a language model's and so the harder
case for top_p. Processor time of one thread, best of fifteen, on each instruction set.
"""

from __future__ import annotations

import sys
import time
from array import array

import numpy as np

from penjing.engine import Sampling
from penjing.engine.sampling import ChoiceRequest, Sampler
from penjing.kernels import available_isas

TRIALS = 15
SAMPLINGS = {
    "greedy": Sampling(),
    "greedy, 20 log-probabilities": Sampling(logprobs=20),
    "temperature, top_k 50, top_p 0.9": Sampling(temperature=0.8, top_k=50, top_p=0.9),
    "temperature": Sampling(temperature=0.8),
    "temperature, top_p 0.9": Sampling(temperature=0.8, top_p=0.9),
    "temperature, min_p 0.05": Sampling(temperature=0.8, min_p=0.05),
    "greedy, penalty on 4,000 tokens": Sampling(repetition_penalty=1.1),
}


def milliseconds(sampler: Sampler, logits: np.ndarray, request: ChoiceRequest) -> float:
    """Of one choice."""
    best = float("inf")
    for _ in range(TRIALS):
        start = time.thread_time()
        sampler.choose(logits, [request])
        best = min(best, time.thread_time() - start)
    return 1e3 * best


def main(vocab_size: int = 151_936) -> None:
    """Print a line for each way of choosing."""
    generator = np.random.default_rng(0)
    logits = (generator.standard_normal((1, vocab_size)) * 3).astype(np.float32)
    tokens = array("i", generator.integers(0, vocab_size, 4000).tolist())
    isas = available_isas()
    print(f"{vocab_size:,} logits".ljust(34), *(isa.rjust(9) for isa in isas))
    for name, sampling in SAMPLINGS.items():
        request = ChoiceRequest(0, sampling.options(), tokens)
        print(name.ljust(34), *(f"{milliseconds(Sampler(1, isa), logits, request):9.3f}" for isa in isas))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
