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
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from penjing.engine import MAX_STRETCH, Engine
from penjing.models.embedded import SEEDLING_NAME
from penjing.optimize.bench import Workload
from penjing.optimize.bench.local import EngineTarget
from penjing.optimize.bench.timeline import Stream, Timeline
from penjing.optimize.reference import runnable

EVENT, USAGE = b"data: {", re.compile(rb'"completion_tokens":(\d+)')


@dataclass(frozen=True)
class Round:
    """One round over HTTP, and processor time a token of the service's event loop and of this client."""

    timeline: Timeline
    loop_microseconds: float
    client_microseconds: float


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

    def stream(self, prompt_tokens: int) -> Stream:
        """When its text came; tokens as the service counts them, in an event of their own at the end."""
        found = USAGE.findall(self.body)
        if not self.body.startswith(b"HTTP/1.1 200") or not found:
            raise SystemExit(f"the service answers {bytes(self.body[-400:]).decode(errors='replace')}")
        return Stream(self.start, tuple(self.times[:-1]), prompt_tokens, int(found[-1]))


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

    async def run(self, load: Workload, rng: np.random.Generator, vocabulary: int) -> Round:
        """One round."""
        loop_before, client_before = self.loop_seconds(), time.process_time()
        prompts = rng.integers(0, vocabulary, (load.streams, load.prompt_tokens)).tolist()
        answers = await asyncio.gather(*(self.ask(prompt, load.output_tokens) for prompt in prompts))
        arriving: list[Stream] = []
        if load.arriving_tokens:
            await asyncio.gather(*(answer.first for answer in answers))
            while not any(answer.done.done() for answer in answers):
                late = await self.ask(rng.integers(0, vocabulary, load.arriving_tokens).tolist(), 1)
                await late.done
                if not any(answer.done.done() for answer in answers):
                    arriving.append(late.stream(load.arriving_tokens))
        await asyncio.gather(*(answer.done for answer in answers))
        streams = tuple(answer.stream(load.prompt_tokens) for answer in answers)
        per_token = 1e6 / sum(stream.output_tokens for stream in streams)
        return Round(
            Timeline(streams, tuple(arriving) if load.arriving_tokens else None),
            (self.loop_seconds() - loop_before) * per_token,
            (time.process_time() - client_before) * per_token,
        )


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


def show(name: str, rounds: list[Timeline]) -> None:
    """One line of the table."""
    gaps = [gap for measured in rounds for gap in measured.gaps]
    waits = [late.ttft for measured in rounds for late in measured.arriving or ()]
    line = f"{name:8} {median(r.decode_rate for r in rounds):8.1f} tokens/s   between tokens: median "
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
    load = Workload(
        streams=given.streams,
        prompt_tokens=given.prompt,
        output_tokens=given.output,
        arriving_tokens=given.arrivals,
    )
    artifact = Path(runnable(given.model))
    engine = EngineTarget(Engine(artifact, threads=given.threads, max_stretch=given.max_stretch))
    vocabulary = engine.engine.config.vocab_size
    with (
        with_tokenizer(artifact, vocabulary) as served,
        serving(served, given.threads, given.max_stretch) as service,
    ):
        if given.prefix:
            asyncio.run(show_prefix(service, given.prefix, given.rounds, vocabulary))
            return
        alone: list[Timeline] = []
        over_http: list[Round] = []
        for number in range(given.rounds + 1):
            seed = time.time_ns()
            alone.append(engine.run(load, seed))
            over_http.append(asyncio.run(service.run(load, np.random.default_rng(seed), vocabulary)))
            if number == 0:  # the first one does not count
                alone.clear()
                over_http.clear()
    show("engine", alone)
    show("HTTP", [measured.timeline for measured in over_http])
    ratios = [b.timeline.decode_rate / a.decode_rate for a, b in zip(alone, over_http, strict=True)]
    print(f"HTTP / engine: {median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
    loop = median(measured.loop_microseconds for measured in over_http)
    client = median(measured.client_microseconds for measured in over_http)
    print(f"processor time a token: event loop {loop:.0f} us, client {client:.0f} us")


if __name__ == "__main__":
    main()
