"""Small tokenizers of both kinds: byte-level BPE, and SentencePiece-like byte fallback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXTS = ["the cat sat on the mat", "a small tray with a landscape in it", "numbers 0123456789", "盆景 é ñ 🌳"]
SPECIAL = ["<s>", "</s>", "<|user|>"]


def byte_level() -> tokenizers.Tokenizer:
    """GPT-2, Llama 3 and Qwen: every byte is a letter of the alphabet."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def byte_fallback() -> tokenizers.Tokenizer:
    """Llama 2 and Mistral: letters, and bytes for what is unknown; a space before the text."""
    vocabulary = ["<unk>", *SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    vocabulary += sorted(set("".join(TEXTS[:3])) - {" "})
    vocabulary += ["▁t", "he", "▁the"]
    tokenizer = tokenizers.Tokenizer(
        models.BPE(
            {token: index for index, token in enumerate(vocabulary)},
            [("▁", "t"), ("h", "e"), ("▁t", "he")],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]  # type: ignore[list-item]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def write_tokenizer(
    directory: Path,
    backend: tokenizers.Tokenizer,
    config: dict[str, Any] | None = None,
) -> Path:
    """tokenizer.json with <s> before every text, and its configuration."""
    directory.mkdir(parents=True, exist_ok=True)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))]
    )
    backend.save(str(directory / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "</s>"} | (config or {})
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory
