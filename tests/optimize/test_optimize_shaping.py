"""From a checkpoint to another checkpoint: what is written, what is said of it, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import QWEN3_MOE, write_checkpoint
from transformers import AutoModelForCausalLM

from penjing.artifact.config import expected_tensors
from penjing.errors import (
    EmptyDataError,
    KnowledgeStoreError,
    OutputExistsError,
    SpecError,
    TokenizerError,
    UnsupportedConfigError,
    VocabularyMismatchError,
)
from penjing.models import Checkpoint
from penjing.models.trainable import TrainableModel
from penjing.optimize.distilling import distill
from penjing.optimize.order import Order, Shaped
from penjing.optimize.pruning import prune
from penjing.optimize.shaping import held_loss, length_of
from penjing.optimize.texts import HELD_BLOCKS, Texts, Wanted, gather_texts
from penjing.optimize.training import train
from penjing.optimize.transferring import transfer
from penjing.quantize import quantize_checkpoint
from penjing.spec import DistillStep, PruneStep, TrainStep, TransferStep, preset

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = DistillStep(steps=12, batch=4, sequence_tokens=16, learning_rate=0.003)
TRAIN = TrainStep(steps=12, batch=4, sequence_tokens=16, learning_rate=0.003)
NARROW = PruneStep(fraction=0.2, axes=("channels",), multiple=4)


@pytest.fixture(scope="module")
def halved(checkpoint: Path, own_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Shaped:
    """A model with one block of two, before it has learned."""
    return transfer(
        checkpoint, tmp_path_factory.mktemp("halved") / "half", TransferStep(layers=1), [own_text], threads=1
    )


def check_written(shaped: Shaped, tmp_path: Path) -> Checkpoint:
    """Transformers computes what Penjing does, and the checkpoint quantizes."""
    written = Checkpoint.open(shaped.path)
    tokens = torch.arange(3, 19)[None]
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(shaped.path, dtype=torch.float32)(tokens).logits
        ours = TrainableModel.of(written, 16)(tokens)
    assert torch.allclose(ours, theirs, atol=1e-4)
    artifact = quantize_checkpoint(written, tmp_path / "tray", preset("int8", 32))
    assert artifact.config.hidden_size == written.config.hidden_size
    assert (written.path / "tokenizer.json").is_file()
    return written


def test_units_are_pruned(checkpoint: Path, own_text: Path, tmp_path: Path) -> None:
    shaped = prune(checkpoint, tmp_path / "out", NARROW, [own_text], threads=1)
    written = check_written(shaped, tmp_path)
    assert written.config.blocks[0].intermediate_size < 96
    assert shaped.after.parameters < shaped.before.parameters
    assert shaped.after.tensor_bytes == written.tensor_bytes
    assert shaped.after.loss > shaped.before.loss
    assert shaped.tokens_per_second is None


def test_weights_are_pruned(checkpoint: Path, own_text: Path, tmp_path: Path) -> None:
    pattern = PruneStep(method="wanda", pattern="2:4")
    shaped = prune(checkpoint, tmp_path / "out", pattern, [own_text], threads=1)
    written = check_written(shaped, tmp_path)
    assert shaped.after.zeros == pytest.approx(0.5)
    assert shaped.after.parameters == shaped.before.parameters
    gate = written.read("blocks.1.gate")
    assert ((gate != 0).reshape(len(gate), -1, 4).sum(-1) == 2).all()
    assert np.array_equal(written.read("embedding"), Checkpoint.open(checkpoint).read("embedding"))


def test_the_same_bytes_twice(checkpoint: Path, tmp_path: Path) -> None:
    """Without data, on text that the model writes itself; the default takes channels."""
    first, second = (prune(checkpoint, tmp_path / name, threads=1) for name in "ab")
    assert first.after == second.after
    assert Checkpoint.open(first.path).hash == Checkpoint.open(second.path).hash
    assert first.after.parameters < first.before.parameters


def test_subcloned_and_distilled(checkpoint: Path, own_text: Path, halved: Shaped, tmp_path: Path) -> None:
    assert halved.after.loss > halved.before.loss
    said: list[str] = []
    shaped = distill(halved.path, checkpoint, tmp_path / "out", QUICK, [own_text], threads=1, say=said.append)
    written = check_written(shaped, tmp_path)
    assert len(written.config.blocks) == 1
    assert shaped.teacher is not None
    assert shaped.teacher.parameters > shaped.after.parameters == shaped.before.parameters
    assert shaped.before.kl is not None
    assert shaped.after.kl is not None
    assert shaped.after.kl < shaped.before.kl
    assert shaped.tokens_trained == 12 * 4 * 16
    assert "step 12 of 12: loss" in said[-1]
    assert "held out" in said[-1]


def test_a_store_teaches_two_students(
    checkpoint: Path, own_text: Path, halved: Shaped, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    shaped = distill(halved.path, checkpoint, tmp_path / "a", QUICK, [own_text], store=store, threads=1)
    assert shaped.before.kl is not None
    assert shaped.after.kl is not None
    assert shaped.after.kl < shaped.before.kl
    written = (store / "blocks.bin").stat().st_mtime_ns
    again = distill(halved.path, checkpoint, tmp_path / "b", QUICK, [own_text], store=store, threads=1)
    assert (store / "blocks.bin").stat().st_mtime_ns == written
    assert again.after == shaped.after
    with pytest.raises(KnowledgeStoreError, match="another text"):
        distill(halved.path, checkpoint, tmp_path / "c", QUICK, store=store, threads=1)


def test_grown_has_the_same_loss(checkpoint: Path, own_text: Path, tmp_path: Path) -> None:
    shape = TransferStep(layers=3, intermediate=128, heads=8)
    shaped = transfer(checkpoint, tmp_path / "out", shape, [own_text], threads=1)
    written = check_written(shaped, tmp_path)
    assert [block.num_heads for block in written.config.blocks] == [8, 8, 8]
    assert shaped.after.loss == pytest.approx(shaped.before.loss, abs=1e-5)
    assert shaped.after.parameters > shaped.before.parameters


def test_within_parameters(checkpoint: Path, own_text: Path, tmp_path: Path) -> None:
    shaped = transfer(checkpoint, tmp_path / "out", None, [own_text], threads=1)
    assert 0 < shaped.after.parameters <= 0.5 * shaped.before.parameters


@pytest.mark.parametrize("way", ["whole", "scratch", "lora"])
def test_trained(checkpoint: Path, own_text: Path, halved: Shaped, tmp_path: Path, way: str) -> None:
    source = checkpoint if way == "scratch" else Path(halved.path)
    shaped = train(
        source,
        tmp_path / "out",
        [own_text],
        TRAIN.model_copy(
            update={"from_scratch": way == "scratch", "lora_rank": 4 if way == "lora" else None}
        ),
        threads=1,
    )
    assert shaped.after.loss < shaped.before.loss
    if way == "scratch":
        assert shaped.before.loss == pytest.approx(math.log(24), abs=0.1)
    source_gate, gate = (Checkpoint.open(path).read("blocks.0.gate") for path in (source, shaped.path))
    if way == "lora":
        values = np.linalg.svd(gate - source_gate, compute_uv=False)
        assert values[3] > 100 * values[4]
        embedding = (Checkpoint.open(path).read("embedding") for path in (source, shaped.path))
        assert np.array_equal(*embedding)


def test_a_run_goes_on_where_it_stopped(checkpoint: Path, own_text: Path, tmp_path: Path) -> None:
    whole = train(checkpoint, tmp_path / "a", [own_text], TRAIN, state=tmp_path / "state", threads=1)
    again = train(checkpoint, tmp_path / "b", [own_text], TRAIN, state=tmp_path / "state", threads=1)
    assert Checkpoint.open(again.path).hash == Checkpoint.open(whole.path).hash


def test_time_is_a_limit(checkpoint: Path, own_text: Path, tmp_path: Path) -> None:
    timed = TRAIN.model_copy(update={"steps": None, "minutes": 0.01})
    shaped = train(checkpoint, tmp_path / "out", [own_text], timed, threads=1)
    assert shaped.steps >= 1


def test_text_is_held_apart_by_document(checkpoint: Path, tmp_path: Path) -> None:
    """Documents of one letter each: no letter is in two parts."""
    lines = [json.dumps({"text": letter * 70}) for letter in "abcdefghijklmABCDEFGH"]
    (tmp_path / "text.jsonl").write_text("\n".join(lines))
    texts = read(checkpoint, tmp_path / "text.jsonl", tmp_path, Wanted(8, None))
    parts = [set(np.ravel(part).tolist()) - {1, 2} for part in (texts.learn.tokens, texts.stop, texts.report)]
    assert all(parts)
    assert sum(map(len, parts)) == len(set().union(*parts))
    assert max(len(texts.stop), len(texts.report)) <= HELD_BLOCKS


def test_one_document_is_cut_by_place(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("abcdefghij" * 10)
    texts = read(checkpoint, tmp_path / "one.txt", tmp_path, Wanted(8, None))
    assert texts.learn.num_blocks(8) == 12 - 2
    assert len(texts.stop) == len(texts.report) == 1
    (tmp_path / "one.txt").write_text("abcdefghij")
    with pytest.raises(EmptyDataError, match="give more text"):
        read(checkpoint, tmp_path / "one.txt", tmp_path, Wanted(8, None))


def read(model: Path, data: Path, directory: Path, wanted: Wanted) -> Texts:
    return gather_texts(Checkpoint.open(model), Order(directory, [data]), wanted, directory)


def test_the_held_loss_is_that_of_the_whole_model(checkpoint: Path) -> None:
    source = Checkpoint.open(checkpoint)
    assert length_of(256, source) == 128
    model = TrainableModel.of(source, 12)
    blocks = np.random.default_rng(0).integers(0, 24, (9, 13))
    tokens = torch.from_numpy(blocks)
    with torch.no_grad():
        chances = model(tokens[:, :-1]).log_softmax(-1).gather(-1, tokens[:, 1:, None])
        assert held_loss(source.config, model.tensor, blocks) == pytest.approx(-chances.mean().item(), 1e-5)
    assert len(expected_tensors(source.config)) == len(model.tensors())


def test_bad_shapes_are_refused_by_name(checkpoint: Path, tmp_path: Path) -> None:
    refused = {
        "nothing would change": TransferStep(layers=2),
        "3 heads cannot share keys": TransferStep(heads=3),
        "intermediate_size is 32": TransferStep(layers=3, intermediate=32),
        "allow that many": TransferStep(parameters=100),
    }
    for words, shape in refused.items():
        with pytest.raises(SpecError, match=words):
            transfer(checkpoint, tmp_path / "out", shape, threads=1)
    assert not (tmp_path / "out").exists()


def test_bad_input_is_refused_by_name(checkpoint: Path, own_text: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputExistsError, match="exists already"):
        prune(checkpoint, checkpoint, NARROW, [own_text])
    other = write_checkpoint(tmp_path / "other", QWEN3_MOE)
    with pytest.raises(VocabularyMismatchError, match="24 tokens and the student 50"):
        distill(other, checkpoint, tmp_path / "out", QUICK, [own_text])
    with pytest.raises(UnsupportedConfigError, match="experts"):
        prune(other, tmp_path / "out", NARROW, threads=1)
    with pytest.raises(TokenizerError, match=r"no tokenizer\.json"):
        train(other, tmp_path / "out", [own_text], TRAIN)
    assert not (tmp_path / "out").exists()
