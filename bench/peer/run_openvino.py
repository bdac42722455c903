"""OpenVINO's runtime on an exported model, driven directly; logits of the last position only."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import openvino as ov
from openvino import opset13


class OpenVinoRunner:
    """Implements worker.Runner. Streams are rows of one batch, which is as fast as it gets here."""

    def __init__(self, model: str, threads: int) -> None:
        core = ov.Core()
        read = core.read_model(Path(model) / "openvino_model.xml")
        keep_last_position(read)
        options = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
        self.request = core.compile_model(read, "CPU", options).create_infer_request()
        self.names = {name for tensor in read.inputs for name in tensor.names}
        self.vocab_size = read.output("logits").partial_shape[-1].get_length()
        self.rng = np.random.default_rng(0)

    def run(self, tokens: np.ndarray, first_position: int) -> np.ndarray:
        """Tokens [streams, n] from a position on; the likeliest next of each."""
        streams, count = tokens.shape
        end = first_position + count
        inputs = {
            "input_ids": tokens,
            "attention_mask": np.ones((streams, end), np.int64),
            "position_ids": np.tile(np.arange(first_position, end, dtype=np.int64), (streams, 1)),
            "beam_idx": np.arange(streams, dtype=np.int32),
        }
        self.request.infer({name: value for name, value in inputs.items() if name in self.names})
        logits = self.request.get_tensor("logits").data
        return logits[:, -1].argmax(-1)[:, None].astype(np.int64)

    def prefill(self, prompt_tokens: int) -> float:
        self.request.reset_state()
        tokens = self.rng.integers(0, self.vocab_size, (1, prompt_tokens))
        start = time.perf_counter()
        self.run(tokens, 0)
        return time.perf_counter() - start

    def decode(self, prompt_tokens: int, steps: int, streams: int) -> float:
        self.request.reset_state()
        last = self.run(self.rng.integers(0, self.vocab_size, (streams, prompt_tokens)), 0)
        start = time.perf_counter()
        for step in range(steps):
            last = self.run(last, prompt_tokens + step)
        return (time.perf_counter() - start) / steps


def keep_last_position(model: ov.Model) -> None:
    """Cut the head's input down to the last position, as OpenVINO GenAI does; an export computes them all."""
    node = model.output("logits").get_node().input_value(0).get_node()
    while node.get_type_name() != "MatMul":
        node = node.input_value(0).get_node()
    last = opset13.slice(node.input_value(0), np.array([-1]), np.array([-2]), np.array([-1]), np.array([1]))
    node.input(0).replace_source_output(last.output(0))
    model.validate_nodes_and_infer_types()


def open_runner(model: str, threads: int) -> OpenVinoRunner:
    """A compiled model."""
    return OpenVinoRunner(model, threads)
