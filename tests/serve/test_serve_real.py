"""The service over the compiled core: a random Llama as a layered artifact, under load."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from checkpoints import LLAMA, write_checkpoint
from openai import OpenAI
from serve_running import RunningServer, wait_until
from test_serve_run import client_of, process_of

from penjing.engine import Engine, Sampling
from penjing.quantize import quantize_checkpoint
from penjing.spec import preset

NUM_TOKENS = 40


@pytest.fixture(scope="module")
def artifact_path(tokenizer_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("real")
    shape = {"vocab_size": 320, "hidden_size": 64, "head_dim": 16, "max_position_embeddings": 256}
    checkpoint = write_checkpoint(directory / "checkpoint", LLAMA | shape | {"eos_token_id": 1})
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer_directory / name, checkpoint)
    quantize_checkpoint(checkpoint, directory / "maple", preset("layered", 32))
    return directory / "maple"


@pytest.fixture(scope="module")
def real_server(artifact_path: Path) -> Iterator[RunningServer]:
    engine = Engine(artifact_path, threads=2, num_pages=80, max_sequences=24)
    with RunningServer({"maple": engine}) as running:
        yield running
    engine.check_invariants()
    assert engine.free_pages == 80


@pytest.fixture
def real_client(real_server: RunningServer) -> Iterator[OpenAI]:
    with real_server.client() as opened:
        yield opened


def test_served_text_is_the_engine_s_own(real_client: OpenAI, artifact_path: Path) -> None:
    for tier in ("fast", "best"):
        engine = Engine(artifact_path, tier=tier, threads=1, num_pages=16)
        own = engine.generate("the little tree", Sampling(max_tokens=NUM_TOKENS))
        served = real_client.completions.create(
            model=f"maple:{tier}", prompt="the little tree", max_tokens=NUM_TOKENS, temperature=0
        )
        assert served.choices[0].text == own.text
        assert served.usage is not None
        assert served.usage.completion_tokens == len(own.tokens)
        sampled = engine.generate(
            "the little tree", Sampling(max_tokens=NUM_TOKENS, temperature=1, top_p=0.9, seed=11)
        )
        served = real_client.completions.create(
            model=f"maple:{tier}", prompt="the little tree", max_tokens=NUM_TOKENS, top_p=0.9, seed=11
        )
        assert served.choices[0].text == sampled.text


def test_64_streams_on_two_tiers_with_random_cancels(
    real_server: RunningServer, real_client: OpenAI, artifact_path: Path
) -> None:
    chooser = random.Random(3)
    asked = [
        (f"the {'moss ' * chooser.randrange(12)}tree {number % 5}", chooser.choice(("fast", "best")))
        for number in range(64)
    ]
    leaves = [chooser.randrange(1, 15) if chooser.random() < 0.3 else None for _ in asked]

    def ask(number: int) -> str | None:
        prompt, tier = asked[number]
        stream = real_client.chat.completions.create(
            model=f"maple:{tier}",
            messages=[{"role": "user", "content": prompt}],
            max_tokens=NUM_TOKENS,
            temperature=0,
            stream=True,
        )
        text = ""
        for count, chunk in enumerate(stream):
            text += chunk.choices[0].delta.content or ""
            if count == leaves[number]:
                stream.close()
                return None
        return text

    with ThreadPoolExecutor(64) as pool:
        texts = list(pool.map(ask, range(64)))
    engine = real_server.engines["maple"]
    wait_until(lambda: engine.free_pages == 80 and engine.stats().running == engine.stats().waiting == 0)
    assert sum(text is not None for text in texts) >= 32

    alone = Engine(artifact_path, threads=1, num_pages=16, prefix_cache=False)
    for (prompt, tier), text in zip(asked, texts, strict=True):
        if text is not None:
            assert text == answer_alone(alone, prompt, tier)


def answer_alone(engine: Engine, prompt: str, tier: str) -> str:
    rendered = engine.tokenizer.render_chat([{"role": "user", "content": prompt}])
    sampling = Sampling(max_tokens=NUM_TOKENS)
    engine.submit(engine.tokenizer.encode(rendered), sampling, tier)  # type: ignore[arg-type]
    text = ""
    while engine.has_work:
        text += "".join(event.text for event in engine.step())
    return text


def test_serving_artifacts_by_path_with_keys(artifact_path: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("moss\n")
    code = (
        "import penjing\n"
        f"models = {{'maple': {str(artifact_path)!r}}}\n"
        f"penjing.serve(models, port=0, api_key_file={str(keys)!r}, threads=1)\n"
    )
    with process_of(code) as (process, url):
        with client_of(url).with_options(api_key="moss") as client:
            assert [model.id for model in client.models.list()] == ["maple", "maple:fast", "maple:best"]
            default, best = (
                client.completions.create(model=name, prompt="a tray", temperature=0).choices[0].text
                for name in ("maple", "maple:best")
            )
            assert default == best
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_serving_needs_no_torch(artifact_path: Path) -> None:
    code = (
        "import sys, json\n"
        "from penjing.engine import Engine\n"
        "from penjing.serve import create_app\n"
        f"create_app({{'m': Engine({str(artifact_path)!r}, num_pages=4)}})\n"
        "print(json.dumps([name for name in ('torch', 'transformers') if name in sys.modules]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
