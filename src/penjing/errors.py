"""Every failure a user can cause, as one tree.

    PenjingError                      exit code 2 unless said otherwise
    ├── InputError                    what was handed in is not usable
    │   ├── SpecError                 a budget, recipe or option that is unknown or out of range
    │   ├── CheckpointError           the model as published
    │   │   ├── CheckpointNotFoundError   no such directory, and nothing to fetch it with
    │   │   ├── MissingShardError         the index names a file that is not there
    │   │   ├── CorruptCheckpointError    truncated or malformed safetensors, broken JSON
    │   │   ├── UnsupportedFamilyError    an architecture outside the family table
    │   │   ├── UnsupportedConfigError    a known family with a setting the engine lacks
    │   │   ├── CheckpointShapeError      a tensor missing, or of another shape than config.json says
    │   │   └── NonFiniteWeightError      NaN or Inf among the weights
    │   ├── FormatError               a format that cannot hold these numbers
    │   ├── ArtifactError             what Penjing wrote
    │   │   ├── ArtifactNotFoundError     no manifest where one was expected
    │   │   ├── ManifestError             edited, malformed, or of an unknown version
    │   │   ├── MissingTensorError        an expected tensor is absent, or an unexpected one present
    │   │   ├── TensorShapeError          a stored shape disagrees with the model's configuration
    │   │   ├── ChecksumError             bytes differ from the recorded checksum or size
    │   │   └── NonFiniteScaleError       NaN or Inf among the scales
    │   ├── TokenizerError            tokenizer.json or its chat template cannot be used
    │   ├── DataError                 text to calibrate or evaluate on
    │   │   ├── EmptyDataError            no text in it
    │   │   └── TextEncodingError         not UTF-8
    │   ├── VocabularyMismatchError   teacher and student do not read the same tokens
    │   ├── KnowledgeStoreError       a teacher's stored knowledge: another teacher's, unfinished, damaged
    │   ├── PromptTooLongError        more tokens than the context holds
    │   └── SamplingError             a sampling option out of range
    ├── OutputError                   where results go
    │   ├── OutputExistsError             it exists, and --force was not given
    │   └── OutputNotWritableError        it cannot be created
    ├── PortInUseError                the service cannot listen there
    ├── EndpointError                 a server that is timed cannot be reached, or refuses
    ├── MissingExtraError             a command needs an optional dependency group
    ├── EngineError                   the engine cannot go on
    │   ├── CapacityError                 a request that can never fit the KV pages, or a full queue
    │   └── NonFiniteLogitsError          the model produced NaN or Inf
    ├── NonFiniteActivationError      a model computes NaN or Inf on the calibration text
    ├── DivergedError                 training produced a loss of NaN or Inf
    ├── CertificateError              a certificate does not belong to the artifact, or fails again
    ├── RecordError                   what a report is made from is absent, malformed, or another artifact's
    └── InfeasibleBudgetError         no candidate meets the budget           (exit code 3)

Each message is one line: what is wrong, where, and what to do about it.
"""

from __future__ import annotations


class PenjingError(Exception):
    """Base of every error a user can cause; its text is one line fit for a terminal."""

    exit_code: int = 2


class InputError(PenjingError):
    """What was handed in is not usable."""


class SpecError(InputError):
    """A budget, recipe or option that is unknown or out of range."""


class CheckpointError(InputError):
    """The model as published cannot be read."""


class CheckpointNotFoundError(CheckpointError):
    """No such directory, and nothing to fetch the name with."""


class MissingShardError(CheckpointError):
    """The shard index names a file that is not there."""


class CorruptCheckpointError(CheckpointError):
    """A truncated or malformed safetensors file, or broken JSON."""


class UnsupportedFamilyError(CheckpointError):
    """An architecture outside the family table."""


class UnsupportedConfigError(CheckpointError):
    """A known family with a setting that the engine lacks."""


class CheckpointShapeError(CheckpointError):
    """A tensor is missing, or has another shape than config.json says."""


class NonFiniteWeightError(CheckpointError):
    """NaN or Inf among the weights."""


class FormatError(InputError):
    """A number format that cannot hold these numbers."""


class ArtifactError(InputError):
    """What Penjing wrote cannot be read back."""


class ArtifactNotFoundError(ArtifactError):
    """No manifest where an artifact was expected."""


class ManifestError(ArtifactError):
    """The manifest was edited, is malformed, or has an unknown version."""


class MissingTensorError(ArtifactError):
    """An expected tensor is absent, or an unexpected one is present."""


class TensorShapeError(ArtifactError):
    """A stored shape disagrees with the model's configuration."""


class ChecksumError(ArtifactError):
    """Bytes differ from the recorded checksum or size."""


class NonFiniteScaleError(ArtifactError):
    """NaN or Inf among the scales."""


class TokenizerError(InputError):
    """tokenizer.json or its chat template cannot be used."""


class DataError(InputError):
    """Text to calibrate or evaluate on cannot be used."""


class EmptyDataError(DataError):
    """There is no text in the data."""


class TextEncodingError(DataError):
    """The text is not UTF-8."""


class VocabularyMismatchError(InputError):
    """Teacher and student do not read the same tokens."""


class KnowledgeStoreError(InputError):
    """The stored knowledge of a teacher is another teacher's or text's, unfinished, or damaged."""


class PromptTooLongError(InputError):
    """The prompt has more tokens than the context holds."""


class SamplingError(InputError):
    """A sampling option is out of range."""


class OutputError(PenjingError):
    """Results cannot be written where they should go."""


class OutputExistsError(OutputError):
    """The output exists, and overwriting was not asked for."""


class OutputNotWritableError(OutputError):
    """The output cannot be created."""


class PortInUseError(PenjingError):
    """The service cannot listen on that address."""


class EndpointError(PenjingError):
    """A server that is timed cannot be reached, refuses, or answers with what cannot be timed."""


class MissingExtraError(PenjingError):
    """A command needs an optional dependency group that is not installed."""

    def __init__(self, extra: str, package: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {package}: pip install 'penjing[{extra}]'")


class EngineError(PenjingError):
    """The engine cannot go on."""


class CapacityError(EngineError):
    """A request that can never fit the KV pages, or a full queue."""


class NonFiniteLogitsError(EngineError):
    """The model produced NaN or Inf."""


class NonFiniteActivationError(PenjingError):
    """A model computes NaN or Inf on the calibration text."""


class DivergedError(PenjingError):
    """Training produced a loss of NaN or Inf."""


class CertificateError(PenjingError):
    """A certificate does not belong to the artifact, or fails when measured again."""


class RecordError(PenjingError):
    """What a search recorded is absent, malformed, or another artifact's."""


class InfeasibleBudgetError(PenjingError):
    """No candidate meets the budget; the text names the binding constraint and the nearest feasible one."""

    exit_code = 3
