"""What pruning takes from Seedling, and what training gives back within so many minutes of one core.

    python bench/compression.py run --fraction 0.25 --way distilled --minutes 30
    python bench/compression.py run --fraction 0.25 --way fine-tuned      # as many tokens as that
    python bench/compression.py run --fraction 0.25 --way scratch
    python bench/compression.py table

Feed-forward channels are judged by gradients on 32 windows, removed, and reconstructed. All ways then read
the same tokens in the same order: the standard library of the Python that runs this, less what is held out.
`distilled` learns from Seedling's distributions, from its hidden states, and from the text itself, which
counts half as much as the distributions, or twice as much;
`fine-tuned` from the text alone; `scratch` likewise, from random weights of the same shape, at learning rates
of its own. Losses are those of Seedling's held-out text. Results are kept in docs/compression.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from quantizers.texts import calibration_texts, calibration_windows, evaluation_windows
from torch import Tensor
from torch.nn import functional

from penjing.artifact.config import expected_tensors
from penjing.data.packing import PackedTokens, pack
from penjing.distill.lessons import Lessons
from penjing.distill.task import Distillation, distillation_task
from penjing.models import Checkpoint
from penjing.models.embedded import SEEDLING
from penjing.models.torch_model import tensor_of
from penjing.models.trainable import TrainableModel, random_model
from penjing.prune.plan import Shrinking, block_parameters
from penjing.prune.structured import StructuredPruning, prune_structured
from penjing.text import Tokenizer
from penjing.training.curves import curves_svg
from penjing.training.loop import StepReport, Task, TrainingConfig, train
from penjing.training.optimizers import AdamW, Muon
from penjing.training.schedules import Schedule

RESULTS = Path(__file__).parents[1] / "docs" / "compression"
LENGTH, BATCH, JUDGED_ON, EVALUATIONS = 256, 8, 32, 6
WAYS = {
    "distilled": Distillation(hard_weight=0.5, feature_weight=1.0),
    "distilled, text twice": Distillation(hard_weight=2.0, feature_weight=1.0),
    "teacher alone": Distillation(),
    "fine-tuned": Distillation(soft_weight=0, hard_weight=1),
    "scratch": Distillation(soft_weight=0, hard_weight=1),
}
RATES = {"scratch": 0.01}  # of Muon; others take the first
RATE = 0.003


@dataclass
class Result:
    """One way of training one shape. curve: (tokens read, CPU seconds, NLL, KL) as training went on."""

    fraction: float
    way: str
    parameters: float
    teacher: float
    curve: list[tuple[int, float, float, float]]

    @property
    def path(self) -> Path:
        """Where it is kept."""
        return RESULTS / f"{self.fraction:g}-{self.way.replace(',', '').replace(' ', '-')}.json"


def main() -> None:
    options = parse_options()
    if options.command == "table":
        print(table(), end="")
        return
    torch.set_num_threads(options.threads)
    run(options.fraction, options.way, options.minutes, options.directory)


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("table", help="print what was found, and draw it")
    one = commands.add_parser("run", help="train one shape in one way")
    one.add_argument("--fraction", type=float, default=0.25, help="of the blocks' parameters that go")
    one.add_argument("--way", choices=WAYS, default="distilled")
    one.add_argument("--minutes", type=float, help="of processor time; without, as many tokens as distilled")
    one.add_argument("--threads", type=int, default=1)
    one.add_argument("--directory", type=Path, default=Path("/tmp/compression"), help="for the text")
    return parser.parse_args()


def run(fraction: float, way: str, minutes: float | None, directory: Path) -> None:
    """Prune, train, and keep what was found."""
    checkpoint = Checkpoint.open("seedling")
    teacher = TrainableModel.of(checkpoint, LENGTH)
    held_out = torch.from_numpy(evaluation_windows().tokens)
    said = teacher_says(teacher, held_out)
    least, _ = judge(teacher, said, held_out)
    student = pruned(checkpoint, fraction)
    parameters = block_parameters(student.config) / block_parameters(checkpoint.config)
    if way == "scratch":
        student = random_model(student.config, LENGTH)
    before, divergence = judge(student, said, held_out)
    result = Result(fraction, way, parameters, least, [(0, 0.0, before, divergence)])
    print(f"teacher {least:.4f}; {parameters:.1%} of the blocks: {before:.4f}", flush=True)
    task = distillation_task(student, teacher, Lessons(packed_text(directory), LENGTH, BATCH), WAYS[way])
    started, judging = time.process_time(), 0.0
    steps = steps_of(fraction) if minutes is None else steps_within(task, 60 * minutes)

    def report(line: StepReport) -> None:
        nonlocal judging
        seconds = time.process_time() - started - judging
        began = time.process_time()
        loss, divergence = judge(student, said, held_out)
        judging += time.process_time() - began
        result.curve.append((line.step * BATCH * LENGTH, seconds, loss, divergence))
        print(f"{line.step} of {steps}: {loss:.4f}, KL {divergence:.4f}, {seconds:.0f} s", flush=True)

    optimizer = Muon(learning_rate=RATES.get(way, RATE), adamw=AdamW(learning_rate=1e-3))
    schedule = Schedule("cosine", warmup_steps=20)
    every = -(-steps // EVALUATIONS)
    steps = every * EVALUATIONS
    train(task, TrainingConfig(steps, optimizer, schedule, bf16=True, log_every=every), report=report)
    RESULTS.mkdir(exist_ok=True)
    result.path.write_text(json.dumps(asdict(result)) + "\n")


def pruned(checkpoint: Checkpoint, fraction: float) -> TrainableModel:
    """Seedling without its least channels."""
    tensors = {name: tensor_of(checkpoint.read(name)).float() for name in expected_tensors(checkpoint.config)}
    tokens = torch.from_numpy(calibration_windows().tokens)[:JUDGED_ON]
    pruning = StructuredPruning(
        fraction=fraction, importance="gradient", shrinking=Shrinking(axes=("channels",))
    )
    with torch.no_grad():
        config, smaller = prune_structured(checkpoint.config, tensors, tokens, pruning)
    return TrainableModel(config, smaller, LENGTH)


def packed_text(directory: Path) -> PackedTokens:
    """All of the standard library that may be learned from."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.load(SEEDLING)
    documents = (tokenizer.encode(text.text) for text in calibration_texts())
    size = tokenizer.backend.get_vocab_size()
    return pack(documents, directory / "text.bin", size, tokenizer.eos_ids[0])


def steps_of(fraction: float) -> int:
    """As many as the distilled model of this size took."""
    path = Result(fraction, "distilled", 0, 0, []).path
    if not path.exists():
        raise SystemExit(f"compression: {path} is not there: run --way distilled first, or give --minutes")
    return int(json.loads(path.read_text())["curve"][-1][0] // (BATCH * LENGTH))


def steps_within(task: Task, seconds: float) -> int:
    """How many steps fit, by the fifth of five that move nothing; 3% are left for the optimizer."""
    taken = 0.0
    for number in range(5):
        began = time.process_time()
        with torch.autocast("cpu", torch.bfloat16):
            loss = task.objective(task.batch(number))
        loss.backward()
        task.model.zero_grad(set_to_none=True)
        taken = time.process_time() - began
    return int(0.97 * seconds / taken)


@torch.no_grad()
def teacher_says(teacher: TrainableModel, windows: Tensor) -> list[Tensor]:
    """Log-probabilities of every next token, eight windows at a time, float32 [8, 255, vocabulary]."""
    return [functional.log_softmax(teacher(part)[:, :-1], -1) for part in windows.split(8)]


@torch.no_grad()
def judge(model: TrainableModel, said: list[Tensor], windows: Tensor) -> tuple[float, float]:
    """Mean NLL, and KL from what the teacher says, of windows int64 [n, 256], nats a token."""
    total = divergence = 0.0
    for part, theirs in zip(windows.split(8), said, strict=True):
        mine = functional.log_softmax(model(part)[:, :-1], -1)
        total += functional.nll_loss(mine.flatten(0, 1), part[:, 1:].flatten(), reduction="sum").item()
        divergence += functional.kl_div(mine, theirs, reduction="sum", log_target=True).item()
    count = windows[:, 1:].numel()
    return total / count, divergence / count


def table() -> str:
    """Markdown of all results; one picture for each fraction, beside them."""
    found = [Result(**json.loads(path.read_text())) for path in sorted(RESULTS.glob("*.json"))]
    heads = "parameters of the blocks", "way", "NLL", "more", "regained", "KL", "tokens", "CPU minutes"
    lines = [f"| {' | '.join(heads)} |"]
    lines += ["|---:|---|---:|---:|---:|---:|---:|---:|"]
    for fraction in sorted({result.fraction for result in found}):
        mine = sorted(
            (each for each in found if each.fraction == fraction), key=lambda each: list(WAYS).index(each.way)
        )
        start = next(each.curve[0] for each in mine if each.way != "scratch")
        teacher, kept = mine[0].teacher, mine[0].parameters
        lost = start[2] - teacher
        lines.append(f"| {kept:.1%} | pruned | {start[2]:.4f} | +{lost:.4f} | | {start[3]:.4f} | | |")
        for each in mine:
            tokens, seconds, loss, divergence = each.curve[-1]
            regained = "" if each.way == "scratch" else f"{(start[2] - loss) / lost:.0%}"
            lines.append(
                f"| | {each.way} | {loss:.4f} | {loss - teacher:+.4f} | {regained} | {divergence:.4f} | "
                f"{tokens / 1e6:.2f} M | {seconds / 60:.0f} |"
            )
        draw(fraction, mine, start[2])
    return "\n".join(lines) + "\n"


def draw(fraction: float, results: list[Result], highest: float) -> None:
    """Held-out loss over tokens; what is above the pruned model's by half of what it lost is left out."""
    teacher = results[0].teacher
    limit = highest + (highest - teacher) / 2
    end = results[0].curve[-1][0] / 1e6
    curves = {
        each.way: [(tokens / 1e6, loss) for tokens, _, loss, _ in each.curve if loss <= limit]
        for each in results
    }
    curves["teacher"] = [(0.0, teacher), (end, teacher)]
    title = f"{1 - fraction:.0%} of the blocks' parameters: loss on held-out text"
    picture = curves_svg(title, {name: curve for name, curve in curves.items() if curve}, unit=" M tokens")
    (RESULTS / f"{fraction:g}.svg").write_text(picture)


if __name__ == "__main__":
    main()
