"""A trained model in every format: what it loses on text, and that it still tells a story."""

from __future__ import annotations

from pathlib import Path

import pytest

from penjing.artifact import Artifact
from penjing.engine import Engine, Sampling
from penjing.optimize.evaluate import evaluate
from penjing.quantize import quantize_checkpoint
from penjing.spec import Tier, WeightFormatName, preset

PROMPT = "Once upon a time"
# What children's stories are made of; a model that has lost its mind writes few of these.
VOCABULARY = """
a after all an and are as asked at away back ball be bear bed big bird boy but came can can't cat could
dad daddy day did didn't do dog down eat everyone excited felt find flower for found friend friends from
fun garden gave get girl go good got had happy has have he heard help her hi high him his home house hug
i i'm in inside into is it it's jack jump kind know laughed learned let's like liked lily little looked
lots loved made man many mom mommy much mum my named never new nice no not of off old on one other out
outside park play played playing please put ran red sad said sam sara saw scared see she sky small smile
smiled so some something soon sorry stop sun sunny take thank that the their them then there they thing
this thought tim time timmy to together too took toy toys tree tried up very want wanted was water we
went were what when where who will with wow yes you your
"""
WORDS = frozenset(VOCABULARY.split())


def share_of_known_words(text: str) -> float:
    words = [word.strip(".,!?\"'").lower() for word in text.split()]
    return sum(word in WORDS for word in words) / len(words)


def repetition(tokens: tuple[int, ...]) -> float:
    """Share of the four-token runs that came before; a loop of ten tokens would give nine tenths."""
    runs = [tokens[start : start + 4] for start in range(len(tokens) - 3)]
    return 1 - len(set(runs)) / len(runs)


@pytest.fixture(scope="module")
def stories_text(tmp_path_factory: pytest.TempPathFactory, stories260k: Path) -> Path:
    """Stories that the unquantized model tells, one a file: text of the kind it knows."""
    directory = tmp_path_factory.mktemp("stories")
    quantize_checkpoint(stories260k, directory / "reference", preset("keep"))
    engine = Engine(directory / "reference", num_pages=32, threads=1)
    (directory / "text").mkdir()
    for seed in range(12):
        told = engine.generate(PROMPT, Sampling(max_tokens=200, temperature=0.8, top_p=0.9, seed=seed))
        (directory / "text" / f"{seed}.txt").write_text(PROMPT + told.text)
    return directory / "text"


@pytest.mark.parametrize(
    ("format", "tier", "most_lost"),
    [
        ("int8", "best", 0.02),
        ("int4", "best", 0.3),
        ("layered", "fast", 0.3),
        ("layered", "best", 0.03),
    ],
)
def test_a_small_model_still_tells_a_story(
    stories260k: Path,
    stories_text: Path,
    tmp_path: Path,
    format: WeightFormatName,
    tier: Tier,
    most_lost: float,
) -> None:
    artifact = quantize_checkpoint(stories260k, tmp_path / format, preset(format, 32))
    result = evaluate(artifact.path, stories260k, stories_text, tier=tier, threads=1, speed=False)
    assert abs(result.compared.bound.mean) < most_lost
    assert result.compared.quality.mean_kl < most_lost

    engine = Engine(Artifact.open(artifact.path), tier=tier, threads=1, num_pages=32)
    story = engine.generate(PROMPT, Sampling(max_tokens=120))
    assert len(story.tokens) >= 60
    assert share_of_known_words(story.text) > 0.75, story.text
    assert repetition(story.tokens) < 0.4, story.text


def test_the_judge_knows_nonsense() -> None:
    assert share_of_known_words("xq the zor blap tim ghe") < 0.5
    assert repetition((1, 2, 3) * 20) > 0.9
