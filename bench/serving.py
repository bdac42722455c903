"""What serving over HTTP costs: the engine alone and `penjing serve` on the same load, taking turns.

    python bench/serving.py tray                      # 16 streams: tokens/s of both, and their ratio
    python bench/serving.py tray --arrivals 2000      # while prompts of 2,000 tokens arrive one after another
    python bench/serving.py tray --prefix 2000        # a prompt whose first 2,000 tokens were seen before

The engine runs in this process and the service in its own; whichever does not serve sleeps. The client is
this process, as lean as Python allows: on two cores it competes with what it measures. Rates and times
between tokens count only while all streams decode. Random prompts, greedy, full length.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from penjing.engine import MAX_STRETCH, Engine, Sampling
from penjing.models.embedded import SEEDLING_NAME
from penjing.optimize.reference import runnable

EVENT, USAGE = b"data: {", re.compile(rb'"completion_tokens":(\d+)')


@dataclass
class Load:
    """`streams` prompts at once; `arriving` is the length of prompts that come meanwhile, None for none."""

    streams: int
    prompt: int
    output: int
    arriving: int | None


@dataclass
class Round:
    """Seconds at which tokens came, stream by stream, and waits of arriving prompts for their first token."""

    streams: list[list[float]]
    num_tokens: int
    arriving: list[float] = field(default_factory=list)
    loop_microseconds: float = 0.0
    client_microseconds: float = 0.0

    @property
    def span(self) -> tuple[float, float]:
        """When all streams decode."""
        begin, end = max(times[0] for times in self.streams), min(times[-1] for times in self.streams)
        if begin >= end:
            raise SystemExit("the first stream ended before the last began: ask for more --output")
        return begin, end

    @property
    def rate(self) -> float:
        """Tokens a second."""
        begin, end = self.span
        events = sum(begin < at <= end for times in self.streams for at in times)
        return events * self.num_tokens / sum(map(len, self.streams)) / (end - begin)

    @property
    def gaps(self) -> list[float]:
        """Seconds between tokens of a stream, while all streams decode."""
        begin, end = self.span
        return [b - a for times in self.streams for a, b in pairwise(times) if a >= begin and b <= end]


class Answer(asyncio.Protocol):
    """One streamed request: notes when events come, and looks at nothing else."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.times: list[float] = []
        self.first = asyncio.get_running_loop().create_future()
        self.done = asyncio.get_running_loop().create_future()
        self.start = time.perf_counter()
        self.tail = b""
        self.body = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.write(self.request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self.body += data
        events = (self.tail + data).count(EVENT)  # an event may be cut, though it is written at once
        self.tail = data[1 - len(EVENT) :]
        if events:
            self.times += [time.perf_counter()] * events
            if not self.first.done():
                self.first.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002
        for future in (self.first, self.done):
            if not future.done():
                future.set_result(None)

    @property
    def num_tokens(self) -> int:
        """As the service counts them."""
        found = USAGE.findall(self.body)
        if not self.body.startswith(b"HTTP/1.1 200") or not found:
            raise SystemExit(f"the service answers {bytes(self.body[-400:]).decode(errors='replace')}")
        return int(found[-1])


class Service:
    """`penjing serve` in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], url: str, model: str) -> None:
        self.process, self.model = process, model
        self.host, _, port = url.removeprefix("http://").partition(":")
        self.port = int(port)

    async def ask(self, prompt: list[int], num_tokens: int) -> Answer:
        """Send a request; its answer begins to come."""
        fields = {"model": self.model, "prompt": prompt, "max_tokens": num_tokens, "temperature": 0}
        options = {"ignore_eos": True, "stream": True, "stream_options": {"include_usage": True}}
        body = json.dumps(fields | options).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {self.host}\r\nConnection: close\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        loop = asyncio.get_running_loop()
        _, answer = await loop.create_connection(lambda: Answer(head.encode() + body), self.host, self.port)
        return answer

    def loop_seconds(self) -> float:
        """Processor time of the service's main thread, which is its event loop."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/schedstat")
        return int(path.read_text().split()[0]) / 1e9 if path.exists() else float("nan")

    async def run(self, load: Load, rng: np.random.Generator, vocabulary: int) -> Round:
        """One round."""
        loop_before, client_before = self.loop_seconds(), time.process_time()
        prompts = rng.integers(0, vocabulary, (load.streams, load.prompt)).tolist()
        answers = await asyncio.gather(*(self.ask(prompt, load.output) for prompt in prompts))
        arriving: list[float] = []
        if load.arriving:
            await asyncio.gather(*(answer.first for answer in answers))
            while not any(answer.done.done() for answer in answers):
                late = await self.ask(rng.integers(0, vocabulary, load.arriving).tolist(), 1)
                await late.done
                if not any(answer.done.done() for answer in answers):
                    arriving.append(late.times[0] - late.start)
        await asyncio.gather(*(answer.done for answer in answers))
        num_tokens = sum(answer.num_tokens for answer in answers)
        per_token = 1e6 / num_tokens
        return Round(
            [answer.times[:-1] for answer in answers],  # the last event is the usage
            num_tokens,
            arriving,
            (self.loop_seconds() - loop_before) * per_token,
            (time.process_time() - client_before) * per_token,
        )


def run_engine(engine: Engine, load: Load, rng: np.random.Generator) -> Round:
    """The same round without a service."""
    vocabulary = engine.config.vocab_size
    sampling = Sampling(max_tokens=load.output, ignore_eos=True)
    prompts = rng.integers(0, vocabulary, (load.streams, load.prompt)).tolist()
    times: dict[int, list[float]] = {engine.submit(prompt, sampling): [] for prompt in prompts}
    arriving: list[float] = []
    late: tuple[int, float] | None = None
    ended = 0
    while ended < load.streams:
        events = engine.step()
        now = time.perf_counter()
        for event in events:
            if event.sequence_id in times:
                times[event.sequence_id].append(now)
                ended += event.finish_reason is not None
            elif late is not None:
                arriving.append(now - late[1])
                late = None
        if load.arriving and late is None and not ended and all(times.values()):
            prompt = rng.integers(0, vocabulary, load.arriving).tolist()
            late = engine.submit(prompt, Sampling(max_tokens=1)), now
    if late is not None:
        engine.cancel(late[0])
    return Round(list(times.values()), sum(map(len, times.values())), arriving)


@contextmanager
def serving(path: Path, threads: int | None, max_stretch: float) -> Iterator[Service]:
    """A service that ends with the block."""
    command = [sys.executable, "-m", "penjing", "serve", str(path), "--port", "0"]
    command += ["--max-stretch", str(max_stretch)] + (["--threads", str(threads)] if threads else [])
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"serving .* at (\S+)", process.stdout.readline())
        if not found:
            raise SystemExit("the service did not start")
        yield Service(process, found[1], path.name)
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def with_tokenizer(path: Path, vocabulary: int) -> Iterator[Path]:
    """The artifact, or if it has no tokenizer, one with links to its files and a word for each token id."""
    if (path / "tokenizer.json").exists():
        yield path
        return
    with tempfile.TemporaryDirectory() as directory:
        for file in path.iterdir():
            (Path(directory) / file.name).symlink_to(file.resolve())
        words = {f"w{index}": index for index in range(vocabulary)}
        tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer.decoder = decoders.WordPiece("")
        tokenizer.save(f"{directory}/tokenizer.json")
        yield Path(directory)


def milliseconds(values: list[float], quantile: float) -> float:
    """A quantile of seconds."""
    return 1e3 * float(np.quantile(values, quantile))


def show(name: str, rounds: list[Round]) -> None:
    """One line of the table."""
    gaps = [gap for measured in rounds for gap in measured.gaps]
    waits = [wait for measured in rounds for wait in measured.arriving]
    line = f"{name:8} {median(r.rate for r in rounds):8.1f} tokens/s   between tokens: median "
    line += f"{milliseconds(gaps, 0.5):.1f} ms, p99 {milliseconds(gaps, 0.99):.1f} ms"
    line += f" ({milliseconds(gaps, 0.99) / milliseconds(gaps, 0.5):.2f} times)"
    if waits:
        line += f"   TTFT of {len(waits)} arriving: median {median(waits):.2f} s, most {max(waits):.2f} s"
    print(line)


async def show_prefix(service: Service, length: int, rounds: int, vocabulary: int) -> None:
    """TTFT of a prompt, and of another one that begins with the same tokens."""
    rng = np.random.default_rng(time.time_ns())
    first: list[float] = []
    second: list[float] = []
    for _ in range(rounds):
        prefix, ends = rng.integers(0, vocabulary, length).tolist(), rng.integers(0, vocabulary, (2, 8))
        texts = []
        for end, waits in ((ends[0], first), (ends[1], second), (ends[0], [])):
            answer = await service.ask(prefix + end.tolist(), 16)
            await answer.done
            waits.append(answer.times[0] - answer.start)
            texts.append(re.findall(rb'"text":("(?:[^"\\]|\\.)*")', answer.body))
        if texts[0] != texts[2]:
            raise SystemExit("the same prompt had another answer after a prefix hit")
    ratio = median(a / b for a, b in zip(first, second, strict=True))
    print(
        f"TTFT of {length} + 8 tokens: {median(first):.3f} s, then {median(second):.3f} s ({ratio:.1f} times)"
    )


def main() -> None:
    """Measure, and print as it goes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", nargs="?", default=SEEDLING_NAME, help="artifact, or checkpoint as it is")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--prompt", type=int, default=128, help="tokens of each stream's prompt")
    parser.add_argument("--output", type=int, default=128, help="tokens of each stream's answer")
    parser.add_argument("--arrivals", type=int, help="tokens of prompts that arrive while all streams decode")
    parser.add_argument(
        "--prefix", type=int, help="measure TTFT of prompts that share so many tokens instead"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--max-stretch", type=float, default=MAX_STRETCH)
    given = parser.parse_args()
    load = Load(given.streams, given.prompt, given.output, given.arrivals)
    artifact = Path(runnable(given.model))
    engine = Engine(artifact, threads=given.threads, max_stretch=given.max_stretch)
    vocabulary = engine.config.vocab_size
    with (
        with_tokenizer(artifact, vocabulary) as served,
        serving(served, given.threads, given.max_stretch) as service,
    ):
        if given.prefix:
            asyncio.run(show_prefix(service, given.prefix, given.rounds, vocabulary))
            return
        alone, over_http = [], []
        for number in range(given.rounds + 1):  # the first one does not count
            rng = np.random.default_rng([number, time.time_ns()])
            alone.append(run_engine(engine, load, rng))
            over_http.append(asyncio.run(service.run(load, rng, vocabulary)))
        show("engine", alone[1:])
        show("HTTP", over_http[1:])
        ratios = [b.rate / a.rate for a, b in zip(alone[1:], over_http[1:], strict=True)]
        print(f"HTTP / engine: {median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
        loop = median(measured.loop_microseconds for measured in over_http[1:])
        client = median(measured.client_microseconds for measured in over_http[1:])
        print(f"processor time a token: event loop {loop:.0f} us, client {client:.0f} us")


if __name__ == "__main__":
    main()
