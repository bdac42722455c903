"""Tasks before and after: both sides answer the same documents through the engine that serves.

Tasks, prompts, answers and scores are those of EleutherAI's lm-evaluation-harness, which the extra `tasks`
brings. Requests are built once, and each side answers all of them.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import logging
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from numbers import Real
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from lm_eval.tasks import TaskManager
from pydantic import Field

from penjing.artifact import Artifact
from penjing.engine import Engine
from penjing.errors import DataError, PenjingError, SpecError
from penjing.optimize.evaluate import Settings, host
from penjing.optimize.harness import EngineModel
from penjing.optimize.progress import Progress, silent
from penjing.optimize.reference import runnable
from penjing.optimize.task_claims import MetricScores, TaskEvaluation, TaskScores, TaskSide, compare_tasks
from penjing.spec import Fraction, Spec, Tier

FEW_SHOT_SEED = 1234  # the harness's own
NEAR_NAMES = 5
NOISY = ("lm_eval", "datasets", "evaluate")


class TaskSettings(Spec):
    """Which tasks, and what to claim. directory: of further tasks. limit: documents of each task.

    max_drop: of every task's score, in its own units (1% is one point of 100); None claims nothing.
    """

    names: Annotated[tuple[str, ...], Field(min_length=1)]
    directory: Path | None = None
    limit: Annotated[int, Field(gt=0)] | None = None
    max_drop: Fraction | None = None
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95


def evaluate_tasks(
    candidate: str | Path,
    against: str | Path,
    settings: TaskSettings,
    *,
    tier: Tier | None = None,
    threads: int | None = None,
    progress: Progress = silent,
) -> TaskEvaluation:
    """Scores of both sides, paired by document, with bounds and claims; each side is as in `evaluate`.

    Raises SpecError for an unknown task or one that the engine cannot answer, DataError for one whose data
    or code cannot be used, and what opening an artifact or a checkpoint raises.
    """
    tasks = load_tasks(settings.names, settings.directory)
    for task in tasks:
        build_requests(task, settings.limit)
    after, before = (
        Artifact.open(runnable(model, progress), verify="none") for model in (candidate, against)
    )
    scores, shortened = [], 0
    for stage, artifact, own_tier in (("candidate", after, tier), ("reference", before, None)):
        engine = Engine(artifact.path, tier=own_tier, threads=threads)
        found, shortened = answer(tasks, engine, settings.limit, stage, progress)
        scores.append(found)
        del engine  # before the next one takes its share of the memory
    return TaskEvaluation(
        candidate=side_of(after, tier),
        reference=side_of(before, None),
        tasks=compare_tasks(scores[1], scores[0], max_drop=settings.max_drop, confidence=settings.confidence),
        confidence=settings.confidence,
        max_drop=settings.max_drop,
        harness=importlib.metadata.version("lm_eval"),
        requests=sum(instance.repeats for task in tasks for instance in task.instances),
        shortened=shortened,
        host=host(Settings(threads=threads)),
    )


def side_of(artifact: Artifact, tier: Tier | None) -> TaskSide:
    """Who answered."""
    own_tier = tier or artifact.tiers[-1]
    return TaskSide(
        name=artifact.manifest.provenance.source.label,
        artifact_hash=artifact.hash,
        tier=own_tier,
        tensor_bytes=artifact.tier_bytes(own_tier),
    )


def load_tasks(names: Sequence[str], directory: Path | None) -> list[Any]:
    """The harness's tasks of these names, with their documents; a group stands for its tasks.

    Raises SpecError for an unknown name, DataError for a task that cannot be loaded.
    """
    manager = find_tasks(names, directory)
    for name in names:
        if name not in manager.task_index:
            near = difflib.get_close_matches(name, manager.all_tasks, NEAR_NAMES)
            others = f"near it are {', '.join(near)}" if near else "no name is near it"
            raise SpecError(f"there is no task {name!r}; {others}")
    tasks: dict[str, Any] = {}
    for name in dict.fromkeys(names):
        data = (manager.task_index[name].cfg or {}).get("dataset_path")
        with quiet(f"task {name}" + (f" (data set {data})" if data else ""), "loaded"):
            tasks |= manager.load([name])["tasks"]
    for name, task in tasks.items():
        check_task(name, task)
    return list(tasks.values())


def find_tasks(names: Sequence[str], directory: Path | None) -> TaskManager:
    """An index of tasks; the thousands that come with the harness are read only if one is asked for."""
    if directory is None:
        return TaskManager()
    if not directory.is_dir():
        raise DataError(f"no directory of tasks at {directory}")
    with quiet(f"directory {directory}", "read"):
        own = TaskManager(include_path=str(directory), include_defaults=False)
        return own if set(names) <= set(own.all_subtasks) else TaskManager(include_path=str(directory))


def check_task(name: str, task: Any) -> None:
    """Raises SpecError for what the engine cannot answer, or should not."""
    if getattr(task, "MULTIMODAL", False):
        raise SpecError(f"task {name} shows images or sounds: the engine reads text alone")
    if getattr(task, "UNSAFE_CODE", False):
        raise SpecError(f"task {name} runs code that the model writes: choose another task")


def build_requests(task: Any, limit: int | None) -> None:
    """Prompts of the first `limit` documents, the same for whoever answers. Raises DataError."""
    task.set_fewshot_seed(FEW_SHOT_SEED)
    with quiet(f"task {task.task_name}", "made into prompts"), redirect_stderr(StringIO()):
        task.build_all_requests(limit=limit)


def answer(
    tasks: Sequence[Any], engine: Engine, limit: int | None, stage: str, progress: Progress
) -> tuple[list[TaskScores], int]:
    """One side's scores of all tasks, and how many requests lost their beginning. Raises DataError."""
    requests: defaultdict[str, list[Any]] = defaultdict(list)
    for task in tasks:
        for instance in task.instances:
            instance.resps, instance.filtered_resps = [], {}
            requests[instance.request_type] += [instance] * instance.repeats
    model = EngineModel(engine, counter(stage, sum(map(len, requests.values())), progress))
    for kind, instances in requests.items():
        with quiet(f"requests of kind {kind}", "answered"):
            responses = getattr(model, kind)(instances)
        for instance, response in zip(instances, responses, strict=True):
            instance.resps.append(response)
    return [score_task(task, limit) for task in tasks], model.num_shortened


def counter(stage: str, total: int, progress: Progress) -> Callable[[int], None]:
    """A callable that is told of more work done."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress(stage, done, total)

    return advance


def score_task(task: Any, limit: int | None) -> TaskScores:
    """A task's metrics from the answers that its requests hold. Raises DataError."""
    by_document = defaultdict(list)
    for instance in task.instances:
        by_document[instance.doc_id].append(instance)
    values: dict[tuple[str, str], dict[int, object]] = defaultdict(dict)
    with quiet(f"task {task.task_name}", "scored"):
        task.apply_filters()
        for number, document in task.doc_iterator(limit=limit):
            instances = sorted(by_document[number], key=lambda instance: instance.idx)
            for name in task.instances[0].filtered_resps:
                answers = [instance.filtered_resps[name] for instance in instances]
                for metric, value in task.process_results(document, answers).items():
                    values[metric, name][number] = value
        metrics = [metric_of(task, *key, found) for key, found in values.items()]
    return TaskScores(
        task=task.task_name,
        few_shot=task.get_config("num_fewshot") or 0,
        documents=len(by_document),
        metrics=tuple(metric for metric in metrics if metric is not None),
    )


def metric_of(task: Any, metric: str, name: str, values: dict[int, object]) -> MetricScores | None:
    """A metric as the task aggregates it; None for what is no number."""
    aggregate = task.aggregation().get(metric)
    kind = "mean" if aggregate is None else getattr(aggregate, "__name__", "")  # the harness's own choice
    items = list(values.values())
    value = np.mean(np.asarray(items)) if aggregate is None else aggregate(items)
    if not isinstance(value, Real):
        return None
    higher = task.higher_is_better().get(metric)
    return MetricScores(metric, name, kind, higher, float(value), values)


@contextmanager
def quiet(what: str, done: str) -> Iterator[None]:
    """What the harness prints goes to stderr, its lesser messages nowhere; its failures are DataErrors."""
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(sys.stderr))
        for name in NOISY:
            logger = logging.getLogger(name)
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
        try:
            yield
        except PenjingError:
            raise
        except Exception as error:  # tasks are programs of many authors
            is_offline = isinstance(error, ConnectionError)
            hint = "; it is fetched once, where there is a network" if is_offline else ""
            raise DataError(f"{what} cannot be {done}: {type(error).__name__}: {error}{hint}") from error
