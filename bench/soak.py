"""A long life of random traffic, and whether anything was lost: exit code 1 if so.

    python bench/soak.py tray --minutes 30

Engines with too few pages or slots and another number of threads each take turns. Traffic: prompts of all
lengths that share beginnings, several answers to one prompt, both tiers of a layered artifact, greedy and
sampled, stop texts, cancellations at random moments, full queues. After every episode all pages must be free
and the books must balance, and every answer must be what its prompt gets alone, on an engine with one thread,
no prefix cache and room for all. (Sampled ones too: their generator counts seeds and positions.) An episode's
traffic is a function of --seed and its number, which a failure names.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

from penjing.artifact import Artifact
from penjing.engine import Engine, Event, Sampling
from penjing.engine.pages import pages_for
from penjing.errors import CapacityError
from penjing.measure.machine import usable_cores
from penjing.models.embedded import SEEDLING_NAME
from penjing.optimize.reference import runnable
from penjing.spec import Tier

REQUESTS = 60  # of an episode
STOPS: tuple[tuple[str, ...], ...] = ((), (), (), ("e",), (" t", "zz"))
PROGRESS_SECONDS = 20


@dataclass
class Request:
    """One prompt with its answers. cancel_step: counted from its arrival; None to let it finish."""

    prompt: list[int]
    samplings: list[Sampling]
    tier: Tier
    arrival_step: int
    cancel_step: int | None
    ids: list[int] = field(default_factory=list)


class LostError(Exception):
    """Something was lost, or came out otherwise."""


@dataclass
class Answer:
    """What one sequence said."""

    tokens: list[int] = field(default_factory=list)
    text: str = ""

    def take(self, event: Event) -> None:
        """Add what an event brings. Raises LostError for the model's own failure."""
        if event.finish_reason == "error":
            raise LostError("the model produced NaN or Inf")
        self.tokens += [] if event.token is None else [event.token]
        self.text += event.text


def make_requests(random: Random, artifact: Artifact, longest: int) -> list[Request]:
    """Traffic of one episode, prompts and answers up to `longest` tokens together."""
    vocabulary = artifact.config.vocab_size
    stops = STOPS if (artifact.path / "tokenizer.json").exists() else STOPS[:1]
    stems = [[random.randrange(vocabulary) for _ in range(longest)] for _ in range(4)]
    requests = []
    for _ in range(REQUESTS):
        length = min(int(longest ** random.random()), longest - 1)
        shared = random.choice([0, length // 2, length - 1])
        prompt = random.choice(stems)[:shared]
        prompt += [random.randrange(vocabulary) for _ in range(length - shared)]
        sampling = Sampling(
            max_tokens=random.randrange(1, min(longest - length, random.choice([8, 64])) + 1),
            temperature=random.choice([0.0, 0.0, 1.0]),
            top_p=random.choice([1.0, 0.9]),
            seed=random.randrange(1000),
            stop=random.choice(stops),
            ignore_eos=random.random() < 0.5,
        )
        answers = [replace(sampling, seed=sampling.seed + n) for n in range(random.choice([1, 1, 1, 3]))]
        cancel = random.randrange(80) if random.random() < 0.2 else None
        tier = random.choice(artifact.tiers)
        requests.append(Request(prompt, answers, tier, random.randrange(120), cancel))
    return requests


def make_engine(random: Random, artifact: Artifact, longest: int, threads: int) -> Engine:
    """An engine that is too small for its traffic in a random way."""
    sequences = random.choice([2, 24, 48])
    return Engine(
        artifact,
        threads=random.randrange(1, threads + 1),
        num_pages=pages_for(longest) + random.choice([0, 4, 16]),
        max_step_tokens=random.choice([sequences, 64, 512]),
        max_sequences=sequences,
        max_queue=random.choice([32, 1024]),
        max_stretch=random.choice([1.2, 1.7, float("inf")]),
        prefix_cache=random.random() < 0.8,
    )


def run_episode(engine: Engine, requests: list[Request]) -> dict[int, Answer]:
    """Every admitted answer. Raises LostError if the books do not balance at the end."""
    answers: dict[int, Answer] = {}
    step = 0
    while engine.has_work or step <= max(request.arrival_step for request in requests):
        for request in requests:
            if request.arrival_step == step:
                submit(engine, request, answers)
            if request.cancel_step is not None and request.arrival_step + request.cancel_step == step:
                for sequence_id in request.ids:
                    engine.cancel(sequence_id)
        for event in engine.step():
            answers[event.sequence_id].take(event)
        step += 1
        if step % 16 == 0:
            engine.check_invariants()
    engine.check_invariants()
    if engine.free_pages != engine.stats().pages_total:
        raise LostError(f"{engine.stats().pages_total - engine.free_pages} pages are lost")
    return answers


def submit(engine: Engine, request: Request, answers: dict[int, Answer]) -> None:
    """Queue a request; a full queue or too few slots refuse it, which is part of life."""
    try:
        request.ids = engine.submit_group(request.prompt, request.samplings, request.tier)
    except CapacityError:
        return
    answers |= {sequence_id: Answer() for sequence_id in request.ids}


def answer_alone(engine: Engine, request: Request, sampling: Sampling) -> Answer:
    """What a prompt gets from an engine that does nothing else."""
    answer = Answer()
    engine.submit(request.prompt, sampling, request.tier)
    while engine.has_work:
        for event in engine.step():
            answer.take(event)
    return answer


def check_answers(alone: Engine, requests: list[Request], answers: dict[int, Answer]) -> int:
    """Answers compared, one at a time. Raises LostError for the first that differs."""
    compared = 0
    for number, request in enumerate(requests):
        for sequence_id, sampling in zip(request.ids, request.samplings, strict=False):
            expected = answer_alone(alone, request, sampling)
            found = answers[sequence_id]
            if request.cancel_step is not None:
                expected.tokens = expected.tokens[: len(found.tokens)]
                expected.text = expected.text[: len(found.text)]
            if found != expected:
                raise LostError(
                    f"request {number}, answer {sequence_id}, {len(request.prompt)} prompt tokens, "
                    f"{request.tier}, {sampling}: {found} and not {expected}"
                )
            compared += 1
    return compared


def main() -> None:
    """Run episodes until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", nargs="?", default=SEEDLING_NAME, help="artifact, or checkpoint as it is")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first-episode", type=int, default=0, help="begin here, to repeat a failure")
    parser.add_argument("--longest", type=int, default=512, help="most tokens of a prompt with its answer")
    given = parser.parse_args()
    artifact = Artifact.open(Path(runnable(given.model)))
    longest = min(given.longest, artifact.config.max_positions - 1)
    alone = Engine(artifact, threads=1, num_pages=pages_for(longest), max_sequences=1, prefix_cache=False)
    threads = max(2, usable_cores())
    start = shown = time.monotonic()
    episode, totals = given.first_episode, Counter[str]()
    while time.monotonic() - start < 60 * given.minutes:
        random = Random(f"{given.seed} {episode}")
        requests = make_requests(random, artifact, longest)
        engine = make_engine(random, artifact, longest, threads)
        try:
            answers = run_episode(engine, requests)
            totals["answers"] += check_answers(alone, requests, answers)
        except (LostError, AssertionError) as failure:
            print(f"FAILED: --seed {given.seed} --first-episode {episode}: {failure}", flush=True)
            sys.exit(1)
        stats = engine.stats()
        totals.update(
            tokens=stats.generated_tokens,
            steps=stats.steps,
            preemptions=stats.preemptions,
            prefix_hits=stats.prefix_hit_tokens,
            refused=sum(not request.ids for request in requests),
            cancelled=sum(request.cancel_step is not None for request in requests),
        )
        episode += 1
        if time.monotonic() - shown > PROGRESS_SECONDS:
            shown = time.monotonic()
            print(f"{(shown - start) / 60:5.1f} min, {episode} episodes: {describe(totals)}", flush=True)
    print(f"PASSED: {episode - given.first_episode} episodes: {describe(totals)}")


def describe(totals: Counter[str]) -> str:
    """Counts in words."""
    return ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in sorted(totals.items()))


if __name__ == "__main__":
    main()
