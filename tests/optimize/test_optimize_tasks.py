"""Tasks of lm-evaluation-harness answered by the engine: as its own model would, and both sides alike."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from task_files import DOCUMENTS, metric, write_task, write_tasks

pytest.importorskip("lm_eval", reason="no lm-eval here: pip install 'penjing[tasks]'")

from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

from penjing.artifact import Artifact
from penjing.engine import Engine
from penjing.errors import DataError, SpecError, TokenizerError
from penjing.models.embedded import SEEDLING
from penjing.optimize.harness import EngineModel, sampling_of
from penjing.optimize.reference import reference_artifact
from penjing.optimize.tasks import TaskSettings, evaluate_tasks, load_tasks
from penjing.quantize import quantize_checkpoint
from penjing.spec import canonical_json, preset

NAMES = ("tiny_choice", "tiny_write", "tiny_text")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("harness") / "tasks")


@pytest.fixture(scope="module")
def int4(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return quantize_checkpoint(SEEDLING, tmp_path_factory.mktemp("artifacts") / "int4", preset("int4"))


def requests_of(*arguments: tuple[object, ...]) -> list[SimpleNamespace]:
    return [SimpleNamespace(args=each, task_name="test") for each in arguments]


def model_of(path: Path) -> EngineModel:
    return EngineModel(Engine(path, threads=1), lambda _: None)


def test_both_sides_answer_the_same_documents(int4: Artifact, tasks: Path) -> None:
    stages = []
    settings = TaskSettings(names=NAMES, directory=tasks, max_drop=0.5)
    found = evaluate_tasks(
        int4.path, SEEDLING, settings, threads=1, progress=lambda *step: stages.append(step)
    )
    assert [change.task for change in found.tasks] == list(NAMES)
    assert found.requests == DOCUMENTS * (4 + 1 + 1)
    assert ("candidate", found.requests, found.requests) in stages
    assert (found.reference.tier, found.candidate.artifact_hash) == ("best", int4.hash)
    choice, write, text = found.tasks
    bound = choice.metrics[0].bound
    assert bound is not None
    assert (bound.method, bound.documents) == ("exact", DOCUMENTS)
    assert bound.drop == pytest.approx(choice.metrics[0].reference - choice.metrics[0].candidate)
    assert bound.upper is not None
    assert bound.upper > bound.drop
    assert write.metrics[0].bound is not None
    assert text.metrics[0].candidate > text.metrics[0].reference, "4 bits cost perplexity"
    assert text.metrics[0].bound is not None
    assert text.metrics[0].bound.method == "skew-aware"
    assert all(change.claim is not None for change in found.tasks)
    assert json.loads(canonical_json(found)) == found.model_dump(mode="json")


def test_scores_are_those_of_the_harness(int4: Artifact, tasks: Path) -> None:
    settings = TaskSettings(names=NAMES, directory=tasks, limit=10)
    found = evaluate_tasks(int4.path, int4.path, settings, threads=1)
    loaded = TaskManager(include_path=str(tasks), include_defaults=False).load(list(NAMES))
    theirs = evaluate(model_of(int4.path), loaded, limit=10, bootstrap_iters=0)["results"]
    for change in found.tasks:
        assert change.documents == 10
        for score in change.metrics:
            assert score.candidate == score.reference == theirs[change.task][f"{score.metric},none"]


def test_texts_are_read_as_by_the_harnesss_own_model() -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from lm_eval.models.huggingface import HFLM

    torch.set_num_threads(1)
    theirs = HFLM(
        pretrained=transformers.AutoModelForCausalLM.from_pretrained(SEEDLING, dtype=torch.float32),
        tokenizer=transformers.AutoTokenizer.from_pretrained(SEEDLING),
    )
    ours = model_of(reference_artifact(SEEDLING))
    long = "value = 1\n" * 300
    asked = [("import os\n", "import sys\n"), ("", "def main():"), ("def f(x):\n    return ", "x + 1")]
    asked += [("<|endoftext|>import", " os"), (long, "value = 2"), ("    self.a = a\n    self.b =", " b")]
    expected = theirs.loglikelihood(requests_of(*asked), disable_tqdm=True)
    found = ours.loglikelihood(requests_of(*asked))
    assert [score for score, _ in found] == pytest.approx([score for score, _ in expected], abs=1e-3)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert {greedy for _, greedy in found} == {True, False}
    assert ours.num_shortened == 1
    texts = requests_of((long,), ("x",))
    assert ours.loglikelihood_rolling(texts) == pytest.approx(
        theirs.loglikelihood_rolling(texts, disable_tqdm=True), rel=1e-5
    )
    options = {"until": ["\n\n", "return"], "max_gen_toks": 12, "do_sample": False}
    prompts = requests_of(*((text, dict(options)) for text in ("import os\nimport", "def main(", long)))
    assert ours.generate_until(prompts) == theirs.generate_until(prompts, disable_tqdm=True)


def test_options_of_generation() -> None:
    greedy = sampling_of({"until": "\n", "do_sample": False, "temperature": 0.7, "num_beams": 1}, seed=3)
    assert (greedy.temperature, greedy.stop, greedy.max_tokens) == (0.0, ("\n",), 256)
    drawn = sampling_of({"until": ["a", ""], "max_tokens": 9, "do_sample": True, "temperature": 0.5}, seed=3)
    assert (drawn.temperature, drawn.stop, drawn.max_tokens, drawn.seed) == (0.5, ("a",), 9, 3)
    with pytest.raises(SpecError, match="num_beams=4"):
        sampling_of({"until": [], "num_beams": 4}, seed=0)


def test_what_cannot_be_answered_is_refused(int4: Artifact, tasks: Path) -> None:
    model = model_of(int4.path)
    with pytest.raises(DataError, match="no token of its own"):
        model.loglikelihood(requests_of(("for i in range(", ")")))
    with pytest.raises(DataError, match="more than the context"):
        model.loglikelihood(requests_of(("a", "b c\n" * 2000)))
    with pytest.raises(SpecError, match="answers of 4000 tokens"):
        model.generate_until(requests_of(("a", {"until": [], "max_gen_toks": 4000})))
    model.engine.tokenizer.special_tokens, model.engine.tokenizer.eos_ids = {}, ()
    with pytest.raises(TokenizerError, match="no token to begin or end"):
        print(EngineModel(model.engine, model.advance).eot_token_id)


def test_what_cannot_be_loaded_is_named(tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="no directory of tasks"):
        load_tasks(["tiny_choice"], tmp_path / "absent")
    own = tmp_path / "own"
    own.mkdir()
    settings = {"output_type": "generate_until", "doc_to_text": "{{text}}", "doc_to_target": "x"}
    write_task(
        own, tmp_path / "absent.jsonl", task="dataless", metric_list=[metric("exact_match")], **settings
    )
    with pytest.raises(DataError, match=r"task dataless \(data set json\) cannot be loaded: .*absent.jsonl"):
        load_tasks(["dataless"], own)
    documents = tasks / "documents.jsonl"
    write_task(own, documents, task="reckless", unsafe_code=True, **settings)
    with pytest.raises(SpecError, match="reckless runs code"):
        load_tasks(["reckless"], own)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    write_task(own, documents, task="remote", dataset_path="nobody/nothing", **settings)
    with pytest.raises(
        DataError, match=r"task remote \(data set nobody/nothing\) cannot be loaded: .*network"
    ):
        load_tasks(["remote"], own)
