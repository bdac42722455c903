"""Tiny tasks of lm-evaluation-harness on disk, with their documents beside them."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

DOCUMENTS = 24


def write_tasks(directory: Path) -> Path:
    """Three tasks on the same snippets of Python: to choose an ending, to write one, and to read all."""
    directory.mkdir()
    names = ("os", "sys", "re", "json")
    documents = [
        {
            "text": f"import {names[number % 4]}\n\n\ndef call_{number}(self):\n    return",
            "endings": [" None", " self", f" {names[number % 4]}.name", " 1"],
            "answer": number % 2,
        }
        for number in range(DOCUMENTS)
    ]
    lines = directory / "documents.jsonl"
    lines.write_text("\n".join(map(json.dumps, documents)))
    write_task(
        directory,
        lines,
        task="tiny_choice",
        output_type="multiple_choice",
        doc_to_text="{{text}}",
        doc_to_choice="{{endings}}",
        doc_to_target="answer",
        target_delimiter="",
        metric_list=[metric("acc"), metric("acc_norm")],
    )
    write_task(
        directory,
        lines,
        task="tiny_write",
        output_type="generate_until",
        doc_to_text="{{text}}",
        doc_to_target=" self",
        generation_kwargs={"until": ["\n", "."], "max_gen_toks": 6, "do_sample": False},
        metric_list=[metric("exact_match")],
    )
    write_task(
        directory,
        lines,
        task="tiny_text",
        output_type="loglikelihood_rolling",
        doc_to_text="",
        doc_to_target="{{text}}",
        metric_list=[
            {"metric": "word_perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False}
        ],
    )
    return directory


def metric(name: str) -> dict[str, object]:
    """One that is averaged."""
    return {"metric": name, "aggregation": "mean", "higher_is_better": True}


def write_task(directory: Path, documents: Path, **settings: object) -> None:
    """A task's YAML; what the library keeps of the documents stays beside it."""
    data = {"data_files": {"test": str(documents)}, "cache_dir": str(directory / "cache")}
    whole = {"dataset_path": "json", "dataset_kwargs": data, "test_split": "test"} | settings
    (directory / f"{settings['task']}.yaml").write_text(yaml.safe_dump(whole))
