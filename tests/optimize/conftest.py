"""A small random model, its tokenizer of single letters, and text that the model wrote itself.

On its own text a model predicts as well as it believes, so that the expected loss of a candidate is its KL
divergence: what is measured can be told from what should be.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from checkpoints import LLAMA, random_tensors, write_checkpoint
from letters import LETTERS, write_letters

from penjing.artifact import Artifact, write_certificate
from penjing.engine import Engine, Sampling
from penjing.optimize.certificate import issue_certificate
from penjing.optimize.evaluate import evaluate
from penjing.optimize.evaluation import Evaluation
from penjing.optimize.reference import reference_artifact
from penjing.quantize import quantize_checkpoint
from penjing.spec import Budget, preset

DOCUMENTS, TOKENS = 60, 110
CONFIG = LLAMA | {"vocab_size": len(LETTERS), "hidden_size": 64, "head_dim": 16, "intermediate_size": 96}


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """No test touches the user's cache."""
    directory = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PENJING_CACHE", str(directory))
        yield directory


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "letters"
    tensors = {
        name: tensor * (2.5 if tensor.ndim == 2 else 1) for name, tensor in random_tensors(CONFIG).items()
    }
    write_checkpoint(directory, CONFIG, tensors=tensors)
    write_letters(directory)
    return directory


@pytest.fixture(scope="session")
def reference(checkpoint: Path) -> Path:
    return reference_artifact(checkpoint)


@pytest.fixture(scope="session")
def own_text(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents sampled from the model at temperature 1."""
    engine = Engine(reference, threads=1)
    banned = {0: -100.0, 1: -100.0, 2: -100.0}
    lines = []
    for seed in range(DOCUMENTS):
        sampling = Sampling(max_tokens=TOKENS, temperature=1.0, seed=seed, ignore_eos=True, logit_bias=banned)
        tokens = engine.generate([1], sampling).tokens
        lines.append(json.dumps({"text": "".join(LETTERS[token] for token in tokens)}))
    path = tmp_path_factory.mktemp("text") / "own.jsonl"
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="session")
def int8(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return quantize_checkpoint(checkpoint, tmp_path_factory.mktemp("artifacts") / "int8", preset("int8"))


@pytest.fixture(scope="session")
def layered(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return quantize_checkpoint(
        checkpoint, tmp_path_factory.mktemp("artifacts") / "layered", preset("layered")
    )


@pytest.fixture(scope="session")
def evaluation(int8: Artifact, checkpoint: Path, own_text: Path) -> Evaluation:
    return evaluate(int8.path, checkpoint, own_text, threads=1, speed=False)


@pytest.fixture
def certified(int8: Artifact, evaluation: Evaluation, tmp_path: Path) -> Path:
    """A copy of the int8 artifact with its certificate."""
    path = tmp_path / "certified"
    shutil.copytree(int8.path, path)
    certificate = issue_certificate(
        evaluation, int8, Budget(max_size=0.5, max_loss=0.02), text_part="all", token_limit=16384
    )
    write_certificate(path, certificate)
    return path
