"""Train Seedling, the model inside the package, and publish its checkpoint.

    python scripts/seedling_corpus.py --environment VENV --standard-library LIB ... --output CORPUS
    python scripts/train_seedling.py tokenize --corpus CORPUS
    python scripts/train_seedling.py train    --corpus CORPUS --run RUN [--steps N]
    python scripts/train_seedling.py anneal   --corpus CORPUS --run RUN --branch BRANCH --steps N
    python scripts/seedling_publish.py        --corpus CORPUS --run BRANCH --output src/penjing/seedling

`train` continues from RUN when it holds a state; SIGTERM saves and ends it. `anneal` copies the latest
state of RUN to BRANCH and lets the learning rate fall to zero over N further steps there, while RUN stays
as it is.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from seedling_model import Seedling
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from penjing.data.packing import PackedTokens, block_order, open_packed, pack
from penjing.training.loop import Task, TrainingConfig, train
from penjing.training.optimizers import AdamW, Muon
from penjing.training.ranks import Ranks, joined
from penjing.training.reports import StepReport
from penjing.training.schedules import Schedule
from penjing.training.state import STATE_NAME

SEPARATOR = "<|endoftext|>"
VOCABULARY_SIZE = 2048
CONTEXT = 512
MICRO_BATCH_BLOCKS = 4  # 2,048 tokens: activations stay in a 32 MB cache
MICRO_BATCHES = 8
STEP_TOKENS = CONTEXT * MICRO_BATCH_BLOCKS * MICRO_BATCHES
SEED = 20
PLAN_NAME = "plan.json"


def read_texts(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)["text"]


def tokenize(options: argparse.Namespace) -> None:
    """Train the byte-level BPE on a sixth of the corpus, then pack both splits."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[SEPARATOR],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    sample = (text for i, text in enumerate(read_texts(options.corpus / "train.jsonl")) if i % 6 == 0)
    tokenizer.train_from_iterator(sample, trainer)
    tokenizer.save(str(options.corpus / "tokenizer.json"))
    separator = tokenizer.token_to_id(SEPARATOR)
    for split in ("heldout", "train"):
        ids = (
            tokenizer.encode(t, add_special_tokens=False).ids
            for t in read_texts(options.corpus / f"{split}.jsonl")
        )
        packed = pack(ids, options.corpus / f"{split}.bin", VOCABULARY_SIZE, separator)
        print(f"{split}: {packed.index.num_tokens:,} tokens in {packed.index.num_documents:,} documents")


def training_config(num_steps: int, decay_steps: int) -> TrainingConfig:
    return TrainingConfig(
        num_steps=num_steps,
        optimizer=Muon(learning_rate=0.02, weight_decay=0.01, adamw=AdamW(learning_rate=0.004)),
        schedule=Schedule("trapezoid", warmup_steps=50, decay_steps=decay_steps),
        micro_batches=MICRO_BATCHES,
        seed=SEED,
        evaluate_every=60,
        log_every=20,
        save_seconds=150.0,
    )


def batch_function(tokens: PackedTokens) -> Callable[[int], torch.Tensor]:
    """Micro-batch i as [blocks, CONTEXT + 1] int64; epoch after epoch, each in its own order."""
    num_blocks = tokens.num_blocks(CONTEXT)
    per_epoch = num_blocks // MICRO_BATCH_BLOCKS

    @functools.lru_cache(maxsize=1)
    def order(epoch: int) -> NDArray[np.int64]:
        return block_order(num_blocks, SEED, epoch)

    def batch(number: int) -> torch.Tensor:
        epoch, place = divmod(number, per_epoch)
        start = place * MICRO_BATCH_BLOCKS
        return torch.from_numpy(tokens.blocks(order(epoch)[start : start + MICRO_BATCH_BLOCKS], CONTEXT))

    return batch


def heldout_function(
    model: Callable[..., torch.Tensor], tokens: PackedTokens, ranks: Ranks
) -> Callable[[], float]:
    """Mean loss in nats a token over the rank's share of the held-out text, in blocks of CONTEXT."""
    share = MICRO_BATCH_BLOCKS * ranks.size
    starts = range(ranks.rank * MICRO_BATCH_BLOCKS, tokens.num_blocks(CONTEXT) // share * share, share)

    def evaluate() -> float:
        blocks = (tokens.blocks(range(start, start + MICRO_BATCH_BLOCKS), CONTEXT) for start in starts)
        return sum(model(torch.from_numpy(block)).item() for block in blocks) / len(starts)

    return evaluate


@dataclass(frozen=True)
class Job:
    """One run as every rank needs to know it; picklable."""

    corpus: Path
    directory: Path
    num_steps: int
    decay_steps: int
    num_ranks: int
    meeting_file: Path
    compile: bool


def start(job: Job) -> None:
    """Run all ranks of a job, this process being rank 0."""
    job.directory.mkdir(parents=True, exist_ok=True)
    (job.directory / "pid").write_text(f"{os.getpid()}\n")
    spawn = multiprocessing.get_context("spawn")
    for rank in range(1, job.num_ranks):
        spawn.Process(target=run_rank, args=(rank, job), daemon=True).start()
    run_rank(0, job)


def run_rank(rank: int, job: Job) -> None:
    """Train as one rank: single-threaded, because ranks share the cores between them."""
    stop_requested: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: stop_requested.append(received))
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    model = Seedling(CONTEXT)
    compiled = torch.compile(model) if job.compile else model
    config = training_config(job.num_steps, job.decay_steps)
    with (
        joined(rank, job.num_ranks, job.meeting_file) as ranks,
        (job.directory / "log.txt").open("a", 1) as log,
    ):
        heldout = heldout_function(compiled, open_packed(job.corpus / "heldout.bin"), ranks)
        task = Task(model, batch_function(open_packed(job.corpus / "train.bin")), compiled, heldout)

        def report(line: StepReport) -> None:
            if rank == 0:
                log.write(log_line(line, job.num_steps))

        if rank == 0:
            log.write(f"{time.strftime('%H:%M:%S')} start: {job.num_steps} steps of {STEP_TOKENS:,} tokens\n")
        progress = train(
            task,
            config,
            job.directory,
            report=report,
            should_stop=lambda: bool(stop_requested),
            ranks=ranks,
        )
        if rank == 0:
            log.write(f"{time.strftime('%H:%M:%S')} end at step {progress.step}\n")


def log_line(line: StepReport, num_steps: int) -> str:
    heldout = "" if line.heldout_loss is None else f"  heldout {line.heldout_loss:.4f}"
    return (
        f"{time.strftime('%H:%M:%S')} step {line.step}  tokens {line.step * STEP_TOKENS / 1e6:.2f}M  "
        f"loss {line.loss:.4f}  {STEP_TOKENS / line.seconds_per_step:.0f} tokens/s  "
        f"left {(num_steps - line.step) * line.seconds_per_step / 60:.0f} min{heldout}\n"
    )


def job_from(options: argparse.Namespace, directory: Path, plan: dict[str, int]) -> Job:
    meeting_file = directory.absolute() / f"ranks.{os.getpid()}.{time.time_ns()}"
    return Job(
        options.corpus,
        directory,
        **plan,
        num_ranks=options.ranks,
        meeting_file=meeting_file,
        compile=options.compile,
    )


def run_train(options: argparse.Namespace) -> None:
    """Start or continue a run; its plan is what this command says now."""
    options.run.mkdir(parents=True, exist_ok=True)
    plan = {"num_steps": options.steps, "decay_steps": options.steps // 4}
    (options.run / PLAN_NAME).write_text(json.dumps(plan) + "\n")
    start(job_from(options, options.run, plan))


def run_anneal(options: argparse.Namespace) -> None:
    """Branch once, then continue the branch by the plan it was started with."""
    plan_path = options.branch / PLAN_NAME
    if not plan_path.exists():
        options.branch.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(options.run / STATE_NAME, options.branch / STATE_NAME)
        step = torch.load(options.branch / STATE_NAME, weights_only=True)["progress"]["step"]
        plan_path.write_text(
            json.dumps({"num_steps": step + options.steps, "decay_steps": options.steps}) + "\n"
        )
    start(job_from(options, options.branch, json.loads(plan_path.read_text())))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    for name, function in (("tokenize", tokenize), ("train", run_train), ("anneal", run_anneal)):
        command = commands.add_parser(name)
        command.set_defaults(function=function)
        command.add_argument("--corpus", type=Path, required=True)
        if name != "tokenize":
            command.add_argument("--run", type=Path, required=True)
            command.add_argument("--steps", type=int, default=6000, help=f"steps of {STEP_TOKENS} tokens")
            command.add_argument("--ranks", type=int, default=2, help="single-threaded processes")
            command.add_argument("--no-compile", dest="compile", action="store_false")
        if name == "anneal":
            command.add_argument("--branch", type=Path, required=True)
    options = parser.parse_args()
    options.function(options)


if __name__ == "__main__":
    main()
