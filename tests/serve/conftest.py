"""A tokenizer trained here, and servers over it. No test needs anything from outside the repository."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import tokenizers
from openai import OpenAI
from serve_fakes import FakeRunner, fake_engine
from serve_running import RunningServer
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from penjing.engine import Engine

TEXT = (
    "the little tree stands in a tray and the moss grows under the tree, "
    "a small landscape that wants water, light and time; "
)
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'assistant' and loop.first %}{{ raise_exception('speak first') }}{% endif %}"
    "<|{{ message.role }}|>{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="session")
def tokenizer_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level tokenizer with <s>, </s> and a chat template."""
    directory = tmp_path_factory.mktemp("tokenizer") / "bonsai"
    directory.mkdir()
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([TEXT], trainer)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    backend.save(str(directory / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": CHAT_TEMPLATE}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory


@pytest.fixture
def make_engine(tokenizer_directory: Path) -> Callable[..., tuple[Engine, FakeRunner]]:
    """Makes engines over fake runners."""
    return partial(fake_engine, tokenizer_directory)


@pytest.fixture(scope="module")
def server(tokenizer_directory: Path) -> Iterator[RunningServer]:
    """One server for the tests of a module: a plain model and one with two tiers."""
    engines = {
        "bonsai": fake_engine(tokenizer_directory)[0],
        "tray": fake_engine(tokenizer_directory, tiers=("fast", "best"))[0],
    }
    with RunningServer(engines) as running:
        yield running
    for engine in engines.values():
        engine.check_invariants()
        assert engine.free_pages == engine.stats().pages_total, "pages are lost"


@pytest.fixture
def client(server: RunningServer) -> Iterator[OpenAI]:
    with server.client() as opened:
        yield opened
