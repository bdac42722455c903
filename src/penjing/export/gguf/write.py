"""An artifact as a GGUF file, for llama.cpp and its kin: the artifact's own codes wherever they fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from penjing.artifact import Artifact
from penjing.artifact.staging import StagingDirectory, output_errors, sync
from penjing.export.conversion import Exported, Ledger
from penjing.export.gguf.blocks import GGML_TYPES
from penjing.export.gguf.file import OWN_KEY, FileTensor, Value, is_own_file, write_file
from penjing.export.gguf.settings import architecture_of, model_keys, notes
from penjing.export.gguf.tensors import file_tensors
from penjing.export.gguf.tokenizer import tokenizer_keys
from penjing.export.source import chosen_tier
from penjing.spec import Tier
from penjing.text.tokenizer import TOKENIZER_FILE

QUANTIZATION_VERSION = 2  # of ggml's block types
NO_TOKENIZER = "the file has no tokenizer: its readers take and give token ids only"


def export_gguf(
    source: str | Path,
    out: str | Path,
    *,
    tier: Tier | None = None,
    tokenizer: bool = True,
    force: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> Exported:
    """Write the artifact at `source` as one GGUF file `out`.

    Formats become the block types of docs/export.md; what that costs is in the result. tokenizer: whether to
    write the artifact's own, if it has one. Raises ArtifactError, OutputError, SpecError (a tier that the
    artifact lacks), UnsupportedConfigError (what llama.cpp cannot compute), TokenizerError (what it cannot
    say), FormatError (a number beyond float16).
    """
    out, artifact = Path(out), Artifact.open(source)
    chosen, ledger = chosen_tier(artifact, tier), Ledger()
    tensors = file_tensors(artifact, chosen, ledger)
    keys, said = file_keys(artifact, tensors), notes(artifact.config)
    if tokenizer and TOKENIZER_FILE in artifact.manifest.files:
        config = artifact.config
        words, differences = tokenizer_keys(artifact.path, config.vocab_size, config.eos_ids)
        keys, said = keys | words, said + differences
    else:
        keys, said = keys | {"tokenizer.ggml.model": "no_vocab"}, [*said, NO_TOKENIZER]
    staging = StagingDirectory(out, force=force, objection=objection_to_replacing)
    staging.create()
    try:
        with output_errors(out):
            partial = staging.path / "partial.gguf"
            write_file(partial, keys, tensors, progress)
            sync(partial)
            staging.check_target()
            partial.rename(staging.target)
            sync(staging.target.parent)
    finally:
        staging.discard()
    return Exported(out, ledger.conversions(), tuple(said))


def objection_to_replacing(path: Path) -> str | None:
    """Why `force` may not replace a file; None for one that Penjing wrote."""
    return None if is_own_file(path) else "is not a GGUF file that Penjing exported"


def file_keys(artifact: Artifact, tensors: list[FileTensor]) -> dict[str, Value]:
    """Every key but the tokenizer's; the first tells whose the file is."""
    weights: Counter[str] = Counter()
    for tensor in tensors:
        weights[tensor.type] += tensor.nbytes if len(tensor.shape) > 1 else 0
    config = artifact.config
    return {
        OWN_KEY: artifact.hash,
        "general.architecture": architecture_of(config, artifact.path),
        "general.type": "model",
        "general.file_type": GGML_TYPES[weights.most_common(1)[0][0]].file_type,
        "general.quantization_version": QUANTIZATION_VERSION,
        **model_keys(config, artifact.path),
    }
