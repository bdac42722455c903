"""The engine on the compiled core: no logit changes a bit, whatever the traffic; and a story is told."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from engine_fakes import FakeArtifact, FakeRunner, drain

from penjing import formats
from penjing.artifact import BlockConfig, ModelConfig, expected_tensors
from penjing.engine import Engine, Sampling
from penjing.engine.runner import CpuRunner
from penjing.engine.step import StepSequence
from penjing.quantize import quantize_checkpoint
from penjing.spec import Tier, WeightFormat, preset

CONFIG = ModelConfig(
    family="llama",
    vocab_size=96,
    hidden_size=64,
    head_dim=16,
    max_positions=600,
    norm_eps=1e-5,
    blocks=(BlockConfig(num_heads=4, num_kv_heads=2, intermediate_size=96),) * 2,
)
SAMPLED = Sampling(max_tokens=24, temperature=1.0, seed=5)


@dataclass
class RandomArtifact(FakeArtifact):
    """A small layered model, in memory."""

    config: ModelConfig = CONFIG
    tensors: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        generator, layered = np.random.default_rng(1), WeightFormat(name="layered", group_size=32)
        for name, role in expected_tensors(self.config).items():
            values = generator.standard_normal(role.shape).astype(np.float32)
            encode = role.is_matrix
            self.tensors[name] = (
                formats.encode(values * 0.2, layered, "range", name) if encode else 1 + values / 8
            )

    def matrix(self, name: str) -> object:
        return self.tensors[name]

    def vector(self, name: str, tier: Tier) -> object:
        return self.tensors[name]


class RecordingRunner(FakeRunner):
    """Runs the real runner beside the fake one, whose pages say after which tokens a row of logits came."""

    def __init__(self, real: CpuRunner, seen: dict[bytes, bytes]) -> None:
        super().__init__()
        self.real, self.seen, self.num_repeats = real, seen, 0

    def allocate(self, num_pages: int) -> None:
        super().allocate(num_pages)
        self.real.allocate(num_pages)

    def copy_pages(self, pairs: Sequence[tuple[int, int]]) -> None:
        super().copy_pages(pairs)
        self.real.copy_pages(pairs)

    def step(self, sequences: Sequence[StepSequence], out: np.ndarray | None = None) -> np.ndarray:
        super().step(sequences)
        logits = self.real.step(sequences)
        wanted = [(sequence, int(index)) for sequence in sequences for index in sequence.wanted]
        for (sequence, index), row in zip(wanted, logits, strict=True):
            tokens = self.memory[sequence.pages].reshape(-1, 2)[: sequence.first_position + index + 1]
            key, bits = tokens.tobytes(), row.tobytes()
            self.num_repeats += key in self.seen
            assert self.seen.setdefault(key, bits) == bits, f"other bits after the same {len(tokens)} tokens"
        return logits


@pytest.fixture(scope="module", params=[("int8", "int8"), ("int6", "int4"), ("int4", "int5")], ids="-".join)
def artifact(request: pytest.FixtureRequest) -> RandomArtifact:
    """With a cache of whole bytes, and of packed ones."""
    key_format, value_format = request.param
    formats = {"key_format": key_format, "value_format": value_format}
    blocks = tuple(block.model_copy(update=formats) for block in CONFIG.blocks)
    return RandomArtifact(config=CONFIG.model_copy(update={"blocks": blocks}))


@pytest.fixture(scope="module")
def seen(artifact: RandomArtifact) -> dict[bytes, bytes]:
    """The bits of every row of an artifact's logits, by tokens and tier."""
    return {}


def make_engine(
    artifact: RandomArtifact, seen: dict[bytes, bytes], threads: int = 2, **options: int
) -> Engine:
    runner = RecordingRunner(CpuRunner(artifact, threads=threads), seen)
    return Engine(artifact, runner=runner, **{"num_pages": 100, **options})


def alone(
    artifact: RandomArtifact, seen: dict[bytes, bytes], tokens: list[int], sampling: Sampling, tier: str
) -> list[int]:
    engine = make_engine(artifact, seen, threads=1, prefix_cache=False)
    sequence_id = engine.submit(tokens, sampling, tier)
    return drain(engine)[sequence_id]


@pytest.mark.parametrize(("num_pages", "max_step_tokens"), [(12, 16), (20, 50), (100, 512)])
def test_traffic_changes_no_bit(
    artifact: RandomArtifact, seen: dict[bytes, bytes], num_pages: int, max_step_tokens: int
) -> None:
    random_ = random.Random(num_pages)
    stem = [random_.randrange(96) for _ in range(300)]
    engine = make_engine(
        artifact,
        seen,
        num_pages=num_pages,
        max_step_tokens=max_step_tokens,
        max_sequences=min(16, max_step_tokens),
    )
    expected: dict[int, list[int]] = {}
    answers: dict[int, list[int]] = {}
    for number in range(24):
        tokens = stem[: random_.choice([0, 64, 250, 270])] + [random_.randrange(96) for _ in range(20)]
        sampling = replace(SAMPLED, seed=number, max_tokens=random_.randrange(1, 60))
        tier = random_.choice(["fast", "best"])
        sequence_id = engine.submit(tokens, sampling, tier)
        expected[sequence_id] = alone(artifact, seen, tokens, sampling, tier)
        answers[sequence_id] = []
        for _ in range(random_.randrange(4)):
            for event in engine.step():
                answers[event.sequence_id].append(event.token)
    for sequence_id, tokens in drain(engine).items():
        answers[sequence_id] += tokens
    assert answers == expected
    assert engine._runner.num_repeats >= engine.stats().generated_tokens, "every row was seen alone before"
    stats = engine.stats()
    assert stats.preemptions > 0 or num_pages > 20
    assert stats.prefix_hit_tokens > 0
    assert engine.free_pages == num_pages


def test_group_forks_to_the_same_bits(artifact: RandomArtifact, seen: dict[bytes, bytes]) -> None:
    tokens = [n * n % 96 for n in range(45)]
    samplings = [replace(SAMPLED, seed=seed) for seed in range(4)]
    engine = make_engine(artifact, seen)
    ids = engine.submit_group(tokens, samplings)
    answers = drain(engine)
    assert [answers[i] for i in ids] == [alone(artifact, seen, tokens, s, "best") for s in samplings]


def test_scores_and_logits_are_the_same_bits_in_any_chunks(
    artifact: RandomArtifact, seen: dict[bytes, bytes]
) -> None:
    tokens = [n * 31 % 96 for n in range(600)]
    whole = make_engine(artifact, seen).score([tokens, tokens[:50], tokens[100:]])
    cut = make_engine(artifact, seen, threads=1, max_step_tokens=37, max_sequences=8)
    for a, b in zip(whole, cut.score([tokens, tokens[:50], tokens[100:]]), strict=True):
        np.testing.assert_array_equal(a, b)
    rows = np.concatenate(list(cut.logits(tokens, rows_per_step=101)))
    assert rows.shape == (600, 96)
    exact = rows[:-1].astype(np.float64)
    log_softmax = exact - np.log(np.exp(exact).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(whole[0], log_softmax[np.arange(599), tokens[1:]], atol=1e-5)
    assert float(np.mean(make_engine(artifact, seen).score([tokens], "fast")[0] != whole[0])) > 0.9


@pytest.fixture(scope="module")
def reference_artifact(stories260k: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """stories260k with its own weights and an fp32 cache."""
    path = tmp_path_factory.mktemp("artifacts") / "reference"
    quantize_checkpoint(stories260k, path, preset("keep"))
    return path


def test_story_is_coherent_and_greedy_as_in_transformers(stories260k: Path, reference_artifact: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    engine = Engine(reference_artifact, num_pages=32)
    prompt = engine.tokenizer.encode("Once upon a time", add_special=True)
    story = engine.generate(prompt, Sampling(max_tokens=80))
    model = transformers.AutoModelForCausalLM.from_pretrained(stories260k, dtype=torch.float32)
    with torch.no_grad():
        golden = model.generate(torch.tensor([prompt]), max_new_tokens=80, do_sample=False)[0].tolist()
    assert list(story.tokens) == golden[len(prompt) :]
    assert story.text.startswith(", there was a little girl named Lily. She loved to play"), story.text
    assert engine.generate("Once upon a time", Sampling(max_tokens=80)) == story


def test_text_continues_the_prompt(reference_artifact: Path) -> None:
    engine = Engine(reference_artifact, num_pages=32)
    start = engine.generate("Once upon", Sampling(max_tokens=30)).text
    assert start.startswith(" a time"), "the space before the first word belongs to the answer"
    stopped = engine.generate("Once upon", Sampling(max_tokens=30, stop=(start[8:12],)))
    assert (stopped.text, stopped.finish_reason) == (start[:8], "stop")


def test_preemption_and_prefix_hits_leave_a_story_as_it_is(reference_artifact: Path) -> None:
    prompts = [f"Once upon a time there was a {animal} who" for animal in ("cat", "dog", "bird", "fish")]
    lone = Engine(reference_artifact, num_pages=32)
    sampling = Sampling(max_tokens=100, temperature=0.8, top_p=0.95, seed=7, logprobs=2)
    alone = [lone.generate(prompt, sampling) for prompt in prompts]
    crowded = Engine(reference_artifact, num_pages=9, threads=1)
    ids = [crowded.submit(crowded.tokenizer.encode(prompt, add_special=True), sampling) for prompt in prompts]
    texts, logprobs = dict.fromkeys(ids, ""), {sequence_id: [] for sequence_id in ids}
    while crowded.has_work:
        for event in crowded.step():
            texts[event.sequence_id] += event.text
            logprobs[event.sequence_id].append(event.logprob)
    assert crowded.stats().preemptions > 0
    assert list(texts.values()) == [completion.text for completion in alone]
    assert [tuple(values) for values in logprobs.values()] == [completion.logprobs for completion in alone]
    again = lone.generate(prompts[0], sampling)
    assert again == alone[0]
    assert lone.stats().prefix_hit_tokens > 0 or len(lone.tokenizer.encode(prompts[0])) < 33
