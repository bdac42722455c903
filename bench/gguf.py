"""GGUF files that Penjing writes, run by llama.cpp: how near its logits are to the same weights in fp32.

    python bench/gguf.py                      # the seedling
    python bench/gguf.py CHECKPOINT...        # others
    python bench/peers.py --prepare           # once: the environment that llama.cpp is in

A text that the model writes itself is read by Penjing as it serves the artifact, by llama.cpp from the
exported file, and by Penjing from the dequantized weights with fp32 activations and cache. The first two
round activations, each in its way, so both differ from the last, and by about as much if the file says what
the artifact says.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import penjing
from penjing.export.gguf.settings import context_length
from penjing.optimize.reference import cache_directory
from penjing.spec import WeightFormatName

WORKER = Path(__file__).parent / "peer" / "gguf_logits.py"
PYTHON = cache_directory() / "peers" / "environment" / "bin" / "python"
FORMATS: tuple[tuple[WeightFormatName, bool], ...] = (  # and whether with zero points
    ("keep", False),
    ("int2", False),
    ("int3", True),
    ("int4", False),
    ("int4", True),
    ("int5", False),
    ("int5", True),
    ("int6", False),
    ("int8", False),
    ("int8", True),
    ("layered", False),
    ("table4", False),
    ("mxfp4", False),
    ("nf4", False),
    ("fp8", False),
)
TOKENS = 200
TEXTS = (
    "Once upon a time, there was  a boy.\n\tHe'd 12 dogs!",
    "def f(x):\n    return x + 1  # größer, 盆景 🙂\n",
)


def main() -> None:
    """A table for each checkpoint."""
    if not PYTHON.exists():
        print("bench/gguf.py: llama.cpp is not there; python bench/peers.py --prepare brings it")
        return
    for checkpoint in sys.argv[1:] or ["seedling"]:
        with tempfile.TemporaryDirectory() as directory:
            compare(checkpoint, Path(directory))


def compare(checkpoint: str, directory: Path) -> None:
    """One model in every format."""
    print(f"{checkpoint}: KL and largest difference of logits to the same weights in fp32")
    print(
        f"{'':10}{'Penjing KL':>12}{'llama.cpp KL':>14}{'Penjing max':>13}{'llama.cpp max':>15}{'agree':>7}"
    )
    tokens: list[int] = []
    for format, asymmetric in FORMATS:
        name = f"{format}{' zeros' if asymmetric else ''}"
        tray = directory / name
        penjing.quantize(checkpoint, tray, penjing.preset(format, asymmetric=asymmetric))
        exported = penjing.export(tray, directory / f"{name}.gguf", to="gguf")
        engine = penjing.Engine(tray)
        has_tokenizer = (tray / "tokenizer.json").exists()
        tokens = tokens or (written_by(engine) if has_tokenizer else random_tokens(engine))
        ours = logits_of(engine, tokens)
        texts = {text: engine.tokenizer.encode(text, True) for text in TEXTS if has_tokenizer}
        exact = dequantized_logits(tray, directory / f"{name}-fp32", tokens)
        theirs = llama_logits(exported.path, tokens, texts, directory)
        print(
            f"{name:10}{divergence(exact, ours):12.2e}{divergence(exact, theirs):14.2e}"
            f"{np.abs(exact - ours).max():13.4f}{np.abs(exact - theirs).max():15.4f}"
            f"{(exact.argmax(1) == theirs.argmax(1)).mean():7.1%}"
        )
        for line in exported.lines():
            print(f"          {line}")


def written_by(engine: penjing.Engine) -> list[int]:
    """Tokens of a text by the model itself, sampled; it begins as texts do."""
    number = min(TOKENS, context_length(engine.config))
    begin = engine.tokenizer.encode("Once" if engine.tokenizer.bos_id else "def", add_special=True)
    sampling = penjing.Sampling(max_tokens=number - len(begin), temperature=1.0, seed=1, ignore_eos=True)
    return begin + list(engine.generate(begin, sampling).tokens)


def random_tokens(engine: penjing.Engine) -> list[int]:
    """For a model that has no tokenizer."""
    number = min(TOKENS, context_length(engine.config))
    tokens: list[int] = np.random.default_rng(0).integers(0, engine.config.vocab_size, number).tolist()
    return tokens


def logits_of(engine: penjing.Engine, tokens: list[int]) -> np.ndarray:
    """float32 [tokens, vocabulary]."""
    return np.concatenate(list(engine.logits(tokens)))


def dequantized_logits(tray: Path, directory: Path, tokens: list[int]) -> np.ndarray:
    """Of the same weights in fp32, with fp32 activations and cache."""
    directory.mkdir()
    checkpoint = penjing.export(tray, directory / "checkpoint", dtype="fp32").path
    penjing.quantize(checkpoint, directory / "tray", penjing.preset("keep"))
    return logits_of(penjing.Engine(directory / "tray"), tokens)


def llama_logits(path: Path, tokens: list[int], texts: dict[str, list[int]], directory: Path) -> np.ndarray:
    """llama.cpp's; it must also cut texts into the tokens that the artifact's tokenizer does."""
    asked, answer = directory / "asked.json", directory / "logits.npy"
    asked.write_text(json.dumps({"tokens": tokens, "texts": list(texts)}))
    done = subprocess.run([PYTHON, WORKER, path, asked, answer], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{path.name}: {done.stderr.strip().splitlines()[-1]}")
    for (text, ours), theirs in zip(texts.items(), json.loads(done.stdout), strict=True):
        if ours != theirs:
            print(f"         tokens of {text!r} differ: {ours}, in llama.cpp {theirs}")
    return np.load(answer)


def divergence(exact: np.ndarray, other: np.ndarray) -> float:
    """Mean KL of the distributions, in nats."""
    left, right = log_softmax(exact), log_softmax(other)
    return float((np.exp(left) * (left - right)).sum(1).mean())


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """In double precision."""
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


if __name__ == "__main__":
    main()
