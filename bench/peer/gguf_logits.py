"""What llama.cpp makes of a GGUF file: logits of tokens, tokens of texts. Runs in the peers' environment.

    python gguf_logits.py MODEL.gguf ASKED.json LOGITS.npy

ASKED is {"tokens": [...], "texts": [...]}; the tokens of each text go to stdout as JSON. Keys and
values are cached as float32, so that only weights and activations are rounded.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

FLOAT32 = 0  # GGML_TYPE_F32


def main() -> None:
    model_path, asked_path, logits_path = sys.argv[1:]
    asked = json.loads(Path(asked_path).read_text())
    llama_cpp.llama_backend_init()
    options = llama_cpp.llama_model_default_params()
    options.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(model_path.encode(), options)
    if not model:
        sys.exit(f"llama.cpp does not load {model_path}")
    np.save(logits_path, logits_of(model, asked["tokens"]))
    vocab = llama_cpp.llama_model_get_vocab(model)
    print(json.dumps([tokens_of(vocab, text) for text in asked["texts"]]))


def logits_of(model: Any, tokens: list[int]) -> np.ndarray:
    """float32 [tokens, vocabulary]."""
    options = llama_cpp.llama_context_default_params()
    options.n_ctx = options.n_batch = options.n_ubatch = len(tokens)
    options.type_k = options.type_v = FLOAT32
    context = llama_cpp.llama_init_from_model(model, options)
    batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for index, token in enumerate(tokens):
        batch.token[index], batch.pos[index] = token, index
        batch.n_seq_id[index], batch.seq_id[index][0] = 1, 0
        batch.logits[index] = True
    if llama_cpp.llama_decode(context, batch):
        sys.exit("llama_decode failed")
    size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    rows = [llama_cpp.llama_get_logits_ith(context, index) for index in range(len(tokens))]
    return np.stack([np.ctypeslib.as_array(row, (size,)).copy() for row in rows])


def tokens_of(vocab: Any, text: str) -> list[int]:
    """With what the file prescribes around a text, and special tokens in it taken as such."""
    data = text.encode()
    room = len(data) + 8
    tokens = (ctypes.c_int32 * room)()
    count = llama_cpp.llama_tokenize(vocab, data, len(data), tokens, room, True, True)
    return list(tokens[:count])


if __name__ == "__main__":
    main()
