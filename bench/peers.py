"""Penjing and its peers at one shape on one machine, taking turns: speeds, and the ratios of them.

    python bench/peers.py --prepare                       # environment and models, once; compiles llama.cpp
    python bench/peers.py --output docs/performance       # the measurement itself
    python bench/peers.py --smoke                         # a tiny shape, to see that all of it works

Peers are llama.cpp (through llama-cpp-python, built for this processor), OpenVINO and transformers, in an
environment of their own under --cache-dir. Each contender is a process that keeps its model loaded; only one
computes at a time. Weights are random: speed does not depend on them. A peer that cannot be had is reported.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from peer.contender import Entry
from peer.contest import TASKS, Contest, say
from peer.environment import PEERS, Environment
from peer.prepare import FILES
from peer.report import markdown_of, results_of, write

import penjing
from penjing.artifact import ModelConfig
from penjing.measure.machine import usable_cores
from penjing.models.shapes import find_shape
from penjing.optimize.bench import random_artifact
from penjing.optimize.bench.local import typical
from penjing.optimize.reference import cache_directory

HERE = Path(__file__).parent / "peer"
GROUP_SIZE = 128
REPORTED = ("llama-cpp-python", "openvino", "transformers", "torch")


def main() -> None:
    options = parse_options()
    shape = "tiny" if options.smoke else options.shape
    models = options.cache_dir / "models" / shape
    environment = Environment(options.cache_dir / "environment")
    environment.install(options.peers.split(","))
    entries = prepare(shape, models, environment)
    if options.prepare:
        say(f"ready in {options.cache_dir}; missing: {environment.missing or 'nobody'}")
        return
    results = run(entries, environment, shape, options.threads, 1 if options.smoke else options.rounds)
    print(markdown_of(results))
    if options.output:
        path = write(results, options.output)
        plot = [environment.python, HERE / "plot.py", path, path.with_suffix(".svg")]
        subprocess.run(plot, check=True)


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", default="tinyllama-1.1b", help="a Llama of penjing.models.shapes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--peers", default=",".join(PEERS), help="who takes part beside Penjing")
    parser.add_argument("--cache-dir", type=Path, default=cache_directory() / "peers")
    parser.add_argument("--output", type=Path, help="directory for peers.json and peers.svg")
    parser.add_argument("--prepare", action="store_true", help="install and write models, then stop")
    parser.add_argument("--smoke", action="store_true", help="a tiny shape and one round")
    return parser.parse_args()


def prepare(shape: str, models: Path, environment: Environment) -> list[Entry]:
    """Write what is not there yet; everyone who can take part."""
    config = find_shape(shape)
    if config.family != "llama":
        sys.exit(f"{shape} is no Llama: the peers' models are written for Llamas only")
    models.mkdir(parents=True, exist_ok=True)
    (models / "config.json").write_text(json.dumps(published(config)))
    entries = [
        Entry(name, "penjing", bits, random_artifact(shape, format, GROUP_SIZE))  # type: ignore[arg-type]
        for name, format, bits in (
            ("Penjing int4", "int4", 4),
            ("Penjing int8", "int8", 8),
            ("Penjing layered, best", "layered", 8),
        )
    ]
    for name, engine, kinds, bits in (
        ("llama.cpp Q4_0", "llama.cpp", ("q4_0",), 4),
        ("llama.cpp Q8_0", "llama.cpp", ("q8_0",), 8),
        ("OpenVINO int4", "openvino", ("checkpoint", "openvino"), 4),
        ("transformers bf16", "transformers", ("checkpoint",), 16),
    ):
        if engine in environment.missing:
            continue
        command = [environment.python, HERE / "prepare.py", models / "config.json", models, *kinds]
        if subprocess.run(command, check=False).returncode == 0:
            entries.append(Entry(name, engine, bits, models / FILES[kinds[-1]]))
        else:
            environment.missing[name] = "its model cannot be written"
    return entries


def published(config: ModelConfig) -> dict[str, Any]:
    """The shape in Hugging Face's words."""
    block = config.blocks[0]
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": block.intermediate_size,
        "num_hidden_layers": len(config.blocks),
        "num_attention_heads": block.num_heads,
        "num_key_value_heads": block.num_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope.theta,
        "tie_word_embeddings": False,  # GGUF's head is a tensor of its own here
    }


def run(
    entries: list[Entry], environment: Environment, shape: str, threads: int, rounds: int
) -> dict[str, Any]:
    """The contest, and all that is to be known of it."""
    logs = environment.directory.with_name("logs")
    logs.mkdir(exist_ok=True)
    contest = Contest(threads, logs)
    contest.missing |= environment.missing
    for entry in entries:
        contest.enter(entry, sys.executable if entry.engine == "penjing" else str(environment.python))
    try:
        contest.run(rounds, TASKS)
        found = environment.versions()
        versions = {"penjing": penjing.__version__} | {
            name: found[name] for name in REPORTED if name in found
        }
        return results_of(contest, shape, rounds, typical(contest.probes), versions)
    finally:
        contest.close()


if __name__ == "__main__":
    main()
