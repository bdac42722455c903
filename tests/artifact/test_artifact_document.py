"""docs/artifact.md says all that another implementation needs to know of the manifest's configuration."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from artifact_samples import CONFIG

from penjing.artifact import BlockConfig, ModelConfig, RopeConfig, block_tensors
from penjing.spec import Spec

DOCUMENT = Path(__file__).parents[2] / "docs" / "artifact.md"


@pytest.mark.parametrize("kind", [ModelConfig, RopeConfig, BlockConfig])
def test_every_key_is_described(kind: type[Spec]) -> None:
    rows = re.findall(r"^\| (`.*?) \|", DOCUMENT.read_text("utf-8"), re.MULTILINE)
    described = {key for row in rows for key in re.findall(r"`(\w+)`", row)}
    assert set(kind.model_fields) <= described


def test_the_order_in_a_block() -> None:
    sentence = re.search(r"^Order in a block .*?: (.*?)\. Shapes", DOCUMENT.read_text("utf-8"), re.MULTILINE)
    assert sentence is not None
    everything = CONFIG.model_copy(
        update=dict.fromkeys(("qkv_bias", "output_bias", "feed_forward_bias", "qk_norm", "post_norms"), True)
    )
    assert re.findall(r"`(\w+)`", sentence[1]) == list(block_tensors(everything, CONFIG.blocks[0]))
