"""Publish a trained Seedling as a Hugging Face checkpoint with its model card.

    python scripts/seedling_publish.py --corpus CORPUS --run RUN --output src/penjing/seedling

The held-out loss of the card is measured on the published bf16 weights through transformers, with fp32
activations.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from seedling_card import loss_svg, model_card
from seedling_model import (
    BLOCKS,
    EPSILON,
    FEED_FORWARD,
    HEAD_SIZE,
    HEADS,
    HIDDEN,
    KV_HEADS,
    ROPE_THETA,
    VOCABULARY,
)
from tokenizers import Tokenizer
from train_seedling import CONTEXT, PLAN_NAME, SEPARATOR, STEP_TOKENS
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from penjing.data.packing import open_packed
from penjing.training.state import STATE_NAME

MAX_POSITIONS = 1024
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ message['content'] if message['content'].endswith('\\n') else message['content'] + '\\n' }}"
    "{% else %}"
    "{{ '# ' + message['content'].strip().replace('\\n', '\\n# ') + '\\n' }}"
    "{% endif %}"
    "{% endfor %}"
)
PROMPTS = (
    "def read_json(path):\n",
    'class Stack:\n    """A last-in, first-out stack."""\n\n    def __init__(self):\n',
    "import os\nimport sys\n\n\ndef main(argv=None):\n",
    "# Return the greatest common divisor of a and b.\ndef gcd(a, b):\n",
)
PYTHON_LICENCE = (
    "heldout.jsonl holds files of the standard library of Python 3.11, unchanged. Their licence:\n\n"
)


@dataclass(frozen=True)
class Measurement:
    """Held-out loss in nats a token, over `num_tokens` predicted tokens of text with `num_bytes` UTF-8
    bytes.
    """

    loss: float
    num_tokens: int
    num_bytes: int

    @property
    def bits_per_byte(self) -> float:
        return self.loss * self.num_tokens / self.num_bytes / math.log(2)


def build_model(state: Path) -> LlamaForCausalLM:
    """The trained weights, rounded to bf16, in transformers' Llama."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=FEED_FORWARD,
        num_hidden_layers=BLOCKS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=HEAD_SIZE,
        max_position_embeddings=MAX_POSITIONS,
        rms_norm_eps=EPSILON,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        dtype="bfloat16",
    )
    weights = torch.load(state, map_location="cpu", weights_only=True)["model"]
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if unexpected or missing not in ([], ["lm_head.weight"]):
        raise SystemExit(f"{state} is not a Seedling: missing {missing}, unexpected {unexpected}")
    return model.eval()


def write_checkpoint(model: LlamaForCausalLM, corpus: Path, output: Path) -> None:
    """All files but the card: weights, configurations, tokenizer and held-out text."""
    model.generation_config = GenerationConfig(eos_token_id=0, pad_token_id=0)
    model.save_pretrained(output)
    config = json.loads((output / "config.json").read_text())
    config["rope_theta"] = ROPE_THETA  # readers older than transformers 5 look for it here
    (output / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    shutil.copyfile(corpus / "tokenizer.json", output / "tokenizer.json")
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": SEPARATOR,
        "pad_token": SEPARATOR,
        "clean_up_tokenization_spaces": False,
        "model_max_length": MAX_POSITIONS,
        "chat_template": CHAT_TEMPLATE,
    }
    (output / "tokenizer_config.json").write_text(json.dumps(tokenizer_config, indent=2) + "\n")
    shutil.copyfile(corpus / "heldout.jsonl", output / "heldout.jsonl")
    licence = (corpus / "heldout.LICENSE").read_text(encoding="utf-8")
    (output / "heldout.LICENSE").write_text(PYTHON_LICENCE + licence, encoding="utf-8")


@torch.no_grad()
def measure(model: LlamaForCausalLM, corpus: Path) -> Measurement:
    """Held-out loss in blocks of CONTEXT tokens, each block on its own."""
    tokens = open_packed(corpus / "heldout.bin")
    losses = []
    for number in range(tokens.num_blocks(CONTEXT)):
        block = torch.from_numpy(tokens.blocks([number], CONTEXT))
        logits = model(block[:, :-1]).logits.float()
        losses.append(torch.nn.functional.cross_entropy(logits[0], block[0, 1:]).item())
    covered = len(losses) * CONTEXT
    texts = [json.loads(line)["text"] for line in (corpus / "heldout.jsonl").read_text().splitlines()]
    total_bytes = sum(len(text.encode()) for text in texts)
    return Measurement(sum(losses) / len(losses), covered, round(total_bytes * covered / len(tokens.tokens)))


@torch.no_grad()
def samples(model: LlamaForCausalLM, tokenizer: Tokenizer, num_tokens: int = 120) -> list[tuple[str, str]]:
    """(prompt, continuation) pairs, sampled at temperature 0.4 from a fixed seed."""
    torch.manual_seed(0)
    pairs = []
    for prompt in PROMPTS:
        ids = torch.tensor([tokenizer.encode(prompt).ids])
        out = model.generate(ids, max_new_tokens=num_tokens, do_sample=True, temperature=0.4, top_k=0)
        pairs.append((prompt, tokenizer.decode(out[0, ids.shape[1] :].tolist())))
    return pairs


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True, help="directory of the (annealed) run")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)

    state = options.run / STATE_NAME
    progress = torch.load(state, map_location="cpu", weights_only=True)["progress"]
    plan = json.loads((options.run / PLAN_NAME).read_text())
    decayed_steps = progress["step"] - (plan["num_steps"] - plan["decay_steps"])
    model = build_model(state)
    write_checkpoint(model, options.corpus, options.output)
    weights_file = options.output / "model.safetensors"
    weights_file.chmod(0o644)
    served = model.float()  # bf16 weights, fp32 activations
    measurement = measure(served, options.corpus)
    tokenizer = Tokenizer.from_file(str(options.output / "tokenizer.json"))
    digest = hashlib.sha256(weights_file.read_bytes()).hexdigest()
    curves = {name: progress[f"{name}_curve"] for name in ("train", "heldout")}
    (options.output / "loss.svg").write_text(loss_svg(curves, STEP_TOKENS))
    card = model_card(
        sources=json.loads((options.corpus / "sources.json").read_text()),
        num_parameters=sum(p.numel() for p in served.parameters()),
        trained_tokens=progress["step"] * STEP_TOKENS,
        step_tokens=STEP_TOKENS,
        decayed=f"{max(0, decayed_steps)} of {plan['decay_steps']} steps",
        curves=curves,
        heldout_line=(
            f"{measurement.loss:.4f} nats a token, {measurement.bits_per_byte:.4f} bits a byte, over "
            f"{measurement.num_tokens:,} tokens ({measurement.num_bytes:,} bytes) in blocks of {CONTEXT}"
        ),
        samples=samples(served, tokenizer),
        digest=digest,
    )
    (options.output / "README.md").write_text(card)
    print(f"held-out {measurement.loss:.4f} nats a token after {progress['step']} steps, sha256 {digest}")


if __name__ == "__main__":
    main()
