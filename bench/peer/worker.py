"""A process that keeps one model loaded, and times what it is asked to. Runs in either environment.

    python worker.py ENGINE MODEL THREADS [TIER]

Says a line of JSON when the model is loaded; then for each line of JSON that it reads, {"phase",
"prompt_tokens", "output_tokens", "streams"}, a line with the rate in tokens a second. What libraries print
goes to stderr.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Protocol

ENGINES = {
    "penjing": "peer.run_penjing",
    "llama.cpp": "peer.run_llama",
    "openvino": "peer.run_openvino",
    "transformers": "peer.run_transformers",
}


class Runner(Protocol):
    """A loaded model. Prompts are random tokens, answers greedy."""

    def prefill(self, prompt_tokens: int) -> float:
        """Seconds from one prompt to its logits."""

    def decode(self, prompt_tokens: int, steps: int, streams: int) -> float:
        """Seconds of one step of all streams, the mean over `steps` after all prompts are read."""


def main() -> None:
    engine, model, threads, *tier = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    runner: Runner = importlib.import_module(ENGINES[engine]).open_runner(model, int(threads), *tier)
    print(json.dumps({"ready": True}), file=answers)
    for line in sys.stdin:
        print(json.dumps({"tokens_per_second": rate(runner, json.loads(line))}), file=answers)


def rate(runner: Runner, asked: dict[str, int | str]) -> float:
    """Run one workload."""
    prompt, streams = int(asked["prompt_tokens"]), int(asked["streams"])
    if asked["phase"] == "prefill":
        return prompt / runner.prefill(prompt)
    return streams / runner.decode(prompt, int(asked["output_tokens"]) - 1, streams)


if __name__ == "__main__":
    main()
