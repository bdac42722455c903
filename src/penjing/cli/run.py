"""Commands that run a model: generate, chat, serve, demo."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from penjing.cli.options import Json, MaxTokens, Model, Seed, Temperature, Threads, Tier
from penjing.cli.show import print_json, runnable
from penjing.errors import SpecError


def generate(
    model: Model,
    prompt: Annotated[str, typer.Argument(help="Text to go on from.")],
    max_tokens: MaxTokens = 128,
    temperature: Temperature = 0.0,
    top_p: Annotated[float, typer.Option(help="Draw from the likeliest tokens up to this mass.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Draw from this many likeliest tokens; 0: all.")] = 0,
    stop: Annotated[list[str] | None, typer.Option(help="Stop before this text (repeatable).")] = None,
    seed: Seed = 0,
    tier: Tier = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Write on from a prompt, token by token."""
    from penjing.engine import Engine, Sampling

    sampling = Sampling(
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=seed,
        stop=tuple(stop or ()),
    )
    engine = Engine(runnable(model), tier=tier.value if tier else None, threads=threads, max_sequences=1)
    if as_json:
        answer = engine.generate(prompt, sampling)
        result = {"text": answer.text, "tokens": list(answer.tokens), "finish_reason": answer.finish_reason}
        print_json(result)
        return
    for event in engine.stream(prompt, sampling):
        print(event.text, end="", flush=True)
    print()


def chat(
    model: Model,
    system: Annotated[
        str | None, typer.Option(help="Instruction that comes before the conversation.")
    ] = None,
    max_tokens: MaxTokens = 256,
    temperature: Temperature = 0.7,
    seed: Seed = 0,
    tier: Tier = None,
    threads: Threads = None,
) -> None:
    """Talk with a model in the terminal. An empty line or the end of input leaves."""
    from penjing.engine import Engine, Sampling

    sampling = Sampling(max_tokens=max_tokens, temperature=temperature, seed=seed)
    engine = Engine(runnable(model), tier=tier.value if tier else None, threads=threads, max_sequences=1)
    messages = [{"role": "system", "content": system}] if system else []
    while text := read_line():
        messages.append({"role": "user", "content": text})
        answer = ""
        for event in engine.stream(engine.tokenizer.render_chat(messages), sampling):
            print(event.text, end="", flush=True)
            answer += event.text
        print()
        messages.append({"role": "assistant", "content": answer})


def read_line() -> str:
    """One line from the person; empty at the end of input."""
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return ""


def serve(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL...", help="Artifact or checkpoint directories, or 'seedling'."),
    ],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8000,
    api_key_file: Annotated[Path | None, typer.Option(help="File of accepted keys, one a line.")] = None,
    grace: Annotated[
        float, typer.Option(min=0, help="Seconds that running requests may take to finish.")
    ] = 30.0,
    threads: Threads = None,
    max_stretch: Annotated[
        float,
        typer.Option(
            help="How many times as long a step may take because of prompts, while answers wait for tokens."
        ),
    ] = 1.7,
) -> None:
    """Serve models over an OpenAI-compatible REST API, until SIGTERM or Ctrl-C."""
    from penjing.serve import serve_models

    names = [Path(model).name for model in models]
    if len(set(names)) < len(names):
        raise SpecError(
            "two models have one name, and requests call them by it: rename one of the directories"
        )
    serve_models(
        lambda: {name: runnable(model) for name, model in zip(names, models, strict=True)},
        host=host,
        port=port,
        api_key_file=api_key_file,
        grace_seconds=grace,
        threads=threads,
        max_stretch=max_stretch,
    )


def demo() -> None:
    """Profile, optimize, measure and serve the embedded model, from end to end."""
    from penjing.cli.demo import run_demo

    run_demo()
