"""Times a running server through streamed completions, so that one client compares them all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from penjing.errors import EndpointError
from penjing.optimize.bench.http_stream import RefusedError, Server
from penjing.optimize.bench.results import Bench, make_row
from penjing.optimize.bench.rounds import Rounds, run_rounds
from penjing.optimize.bench.timeline import Stream, Timeline
from penjing.optimize.bench.workload import Workload
from penjing.optimize.progress import Progress, silent

TOKEN_IDS = (1000, 30_000)  # in the vocabulary of every large model, and above its special tokens
WORDS = ["time", "year", "people", "way", "day", "man", "thing", "life", "child", "world", "school", "state"]
CALIBRATION_WORDS = (4, 16)


@dataclass(frozen=True)
class Style:
    """How requests are put: prompts as token ids or as text, and whether answers may end early."""

    token_ids: bool
    ignore_eos: bool

    @property
    def label(self) -> str:
        """For people."""
        prompts = "token ids" if self.token_ids else "text"
        ends = "answers of full length" if self.ignore_eos else "answers that may end early"
        return f"prompts as {prompts}, {ends}"


STYLES = (Style(True, True), Style(False, True), Style(True, False), Style(False, False))


def measure_endpoint(
    url: str,
    workloads: Sequence[Workload] = (Workload(),),
    *,
    model: str | None = None,
    api_key: str | None = None,
    rounds: Rounds = Rounds(),  # noqa: B008
    progress: Progress = silent,
) -> Bench:
    """Run the workloads of `measure_bench` against an OpenAI-style server, `url` ending in /v1 as a rule.

    model: the id to ask for; None if the server has just one. Prompts are random, never the same twice.
    Tokens are counted by the server's `usage`; where it sends none, by pieces of text. What the server takes
    (token ids, `ignore_eos`) is found out first and reported as `sent`.
    Raises EndpointError; SpecError for an address or a number out of range.
    """
    server = Server(url, api_key)
    client = Client(server, model or only_model(server))
    timelines = run_rounds(client, workloads, rounds, progress)
    return Bench(
        model=f"{client.model} at {server.url}",
        sent=f"{client.style.label}; tokens counted by {client.counted_by}",
        rounds=rounds.counted,
        rows=tuple(
            make_row(workload, found, None, integer=False)
            for workload, found in zip(workloads, timelines, strict=True)
        ),
    )


def only_model(server: Server) -> str:
    """The id of a server that has just one. Raises EndpointError."""
    names = server.models()
    if len(names) != 1:
        raise EndpointError(f"{server.url}: serves {', '.join(names) or 'nothing'}; say which with --model")
    return names[0]


class Client:
    """Runs workloads on one model of a server."""

    def __init__(self, server: Server, model: str) -> None:
        self.server = server
        self.model = model
        self.counted_by = "usage"
        self.style = self.negotiate()
        self.words_per_token, self.extra_tokens = (1.0, 0.0) if self.style.token_ids else self.calibrate()

    def negotiate(self) -> Style:
        """The first style that the server takes. Raises EndpointError with its reason if it takes none."""
        refusals = []
        for style in STYLES:
            prompt = make_prompt(np.random.default_rng(), 8, style)
            try:
                for _ in self.server.stream(self.payload(prompt, 2, style)):
                    pass
            except RefusedError as refusal:
                refusals.append(refusal)
            else:
                return style
        raise refusals[-1]

    def calibrate(self) -> tuple[float, float]:
        """Words a token, and tokens of an empty prompt, by the server's own count of two texts."""
        few, many = (
            self.request(make_prompt(np.random.default_rng(), words, self.style), 2, words).prompt_tokens
            for words in CALIBRATION_WORDS
        )
        words_per_token = (CALIBRATION_WORDS[1] - CALIBRATION_WORDS[0]) / max(1, many - few)
        return words_per_token, few - CALIBRATION_WORDS[0] / words_per_token

    def payload(self, prompt: list[int] | str, output_tokens: int, style: Style) -> dict[str, Any]:
        """The request's body."""
        fields: dict[str, Any] = {"model": self.model, "prompt": prompt, "max_tokens": output_tokens}
        fields |= {"temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
        return fields | ({"ignore_eos": True} if style.ignore_eos else {})

    def prompt(self, rng: np.random.Generator, tokens: int) -> list[int] | str:
        """A random prompt of about `tokens` tokens."""
        count = tokens if self.style.token_ids else round((tokens - self.extra_tokens) * self.words_per_token)
        return make_prompt(rng, max(1, count), self.style)

    def request(
        self,
        prompt: list[int] | str,
        output_tokens: int,
        prompt_tokens: int,
        on_first: Callable[[], object] = lambda: None,
    ) -> Stream:
        """One answer from beginning to end. prompt_tokens: what to believe if the server does not count.

        An answer without any text is taken to arrive with its end.
        """
        arrivals: list[float] = []
        usage: dict[str, int] = {}
        submitted = time.perf_counter()
        for event in self.server.stream(self.payload(prompt, output_tokens, self.style)):
            choices = event.get("choices") or ()
            if any(
                choice.get("text") or (choice.get("finish_reason") and not arrivals) for choice in choices
            ):
                arrivals.append(time.perf_counter())
                if len(arrivals) == 1:
                    on_first()
            usage = event.get("usage") or usage
        if len(arrivals) < min(2, output_tokens):
            raise EndpointError(
                f"{self.server.url}: {self.model} answered with {len(arrivals)} pieces of text to "
                f"{output_tokens} tokens asked for, too few to time; ask for more, or serve another model"
            )
        if not usage:
            self.counted_by = "pieces of text"
        return Stream(
            submitted,
            tuple(arrivals),
            usage.get("prompt_tokens", prompt_tokens),
            usage.get("completion_tokens", len(arrivals)),
        )

    def run(self, workload: Workload, seed: int) -> Timeline:
        """Send all requests at once, each from a thread of its own, and wait for them."""
        rng = np.random.default_rng([seed, time.time_ns()])  # a server may remember an earlier run's prompts
        prompts = [self.prompt(rng, workload.prompt_tokens) for _ in range(workload.streams)]
        begun, ended = threading.Semaphore(0), threading.Event()
        with ThreadPoolExecutor(workload.streams + 1) as pool:
            later = pool.submit(self.keep_coming, workload, rng, begun, ended)
            answers = [
                pool.submit(
                    self.request, prompt, workload.output_tokens, workload.prompt_tokens, begun.release
                )
                for prompt in prompts
            ]
            try:
                streams = tuple(answer.result() for answer in answers)
            finally:
                ended.set()
                begun.release(workload.streams)  # lets it see that there is nothing to wait for
            arriving = later.result()
        if workload.arriving_tokens is None:
            return Timeline(streams)
        last = min(stream.arrivals[-1] for stream in streams)
        return Timeline(streams, tuple(stream for stream in arriving if stream.arrivals[0] <= last))

    def keep_coming(
        self, workload: Workload, rng: np.random.Generator, begun: threading.Semaphore, ended: threading.Event
    ) -> list[Stream]:
        """Once all streams have begun: prompts one after another, until the streams have ended."""
        if workload.arriving_tokens is None:
            return []
        for _ in range(workload.streams):
            begun.acquire()
        read = []
        while not ended.is_set():
            prompt = self.prompt(rng, workload.arriving_tokens)
            read.append(self.request(prompt, 1, workload.arriving_tokens))
        return read


def make_prompt(rng: np.random.Generator, count: int, style: Style) -> list[int] | str:
    """`count` random token ids, or words."""
    if style.token_ids:
        token_ids: list[int] = rng.integers(*TOKEN_IDS, count).tolist()
        return token_ids
    words: list[str] = rng.choice(WORDS, count).tolist()
    return " ".join(words)
