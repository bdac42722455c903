"""What clients may send: OpenAI's fields, strict about names, types and ranges.

A field that OpenAI knows and this service does not act on passes with its neutral value (`best_of: 1`) and is
otherwise refused by name. A field that nobody knows is refused. `null` means absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from penjing.engine.sampling import MAX_LOGPROBS
from penjing.serve.http_errors import ApiError, unsupported

MAX_CHOICES = 128
MAX_ANSWERS = 1024  # of one request: its prompts times n
MAX_STOP_TEXTS = 16
MAX_COMPLETION_LOGPROBS = 5

Prompt = str | list[int]


class RequestModel(BaseModel):
    """Frozen, strict types, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    neutral_values: ClassVar[Mapping[str, tuple[object, ...]]] = {}

    @model_validator(mode="before")
    @classmethod
    def without_neutral_fields(cls, data: object) -> object:
        """Drop nulls and fields at their neutral values; refuse other values of those fields by name."""
        if not isinstance(data, dict):
            return data
        given = {name: value for name, value in data.items() if value is not None}
        for name, neutral in cls.neutral_values.items():
            if given.pop(name, neutral[0] if neutral else None) not in (neutral or (None,)):
                raise unsupported(name)
        return given


def one_or_many(value: object) -> object:
    """Read a single text as a list of one."""
    return [value] if isinstance(value, str) else value


def prompt_list(value: object) -> object:
    """Read the four forms of `prompt` as a list of texts and token lists."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        raise ValueError("must be a text, a list of texts, a list of tokens, or a list of token lists")
    if all(isinstance(item, str) for item in value):
        return value
    lists = [value] if all(type(item) is int for item in value) else value
    if not all(is_token_list(item) for item in lists):
        raise ValueError("must be a text, a list of texts, a list of tokens, or a list of token lists")
    return lists


def is_token_list(value: object) -> bool:
    """Whether this is a list of integers, with something in it."""
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)


def token_biases(value: object) -> object:
    """JSON has only text keys: read those of `logit_bias` as token ids."""
    if not isinstance(value, dict):
        return value
    if not all(isinstance(key, str) and key.isascii() and key.isdigit() for key in value):
        raise ValueError("keys must be token ids")
    return {int(key): bias for key, bias in value.items()}


StopTexts = Annotated[
    list[Annotated[str, Field(min_length=1)]],
    BeforeValidator(one_or_many),
    Field(max_length=MAX_STOP_TEXTS),
]
Prompts = Annotated[list[Prompt], BeforeValidator(prompt_list)]
Bias = Annotated[float, Field(ge=-100, le=100)]


class StreamOptions(RequestModel):
    """`include_usage` adds a last chunk that holds the usage and no choices."""

    include_usage: bool = False
    neutral_values = {"include_obfuscation": (False,)}


class GenerationRequest(RequestModel):
    """What both generating routes share. `user` and its kin tell a provider who calls: unused here."""

    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int = Field(default=1, ge=1, le=MAX_CHOICES)
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=1.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=-1)
    min_p: float = Field(default=0.0, ge=0, le=1)
    repetition_penalty: float = Field(default=1.0, gt=0, le=10)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: StopTexts = []
    logit_bias: Annotated[dict[int, Bias], BeforeValidator(token_biases)] = {}
    ignore_eos: bool = False
    user: str | None = None

    @model_validator(mode="after")
    def stream_options_need_stream(self) -> GenerationRequest:
        """OpenAI refuses options of a stream that was not asked for."""
        if self.stream_options is not None and not self.stream:
            raise ApiError(400, "stream_options is only allowed with stream: true", param="stream_options")
        return self

    @property
    def include_usage(self) -> bool:
        """Whether the stream ends with a usage chunk."""
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionRequest(GenerationRequest):
    """POST /v1/completions. `logprobs` counts alternatives; 0 reports the chosen tokens only."""

    prompt: Prompts
    logprobs: int | None = Field(default=None, ge=0, le=MAX_COMPLETION_LOGPROBS)
    neutral_values = {
        "best_of": (1,),
        "echo": (False,),
        "suffix": ("",),
        "presence_penalty": (0,),
        "frequency_penalty": (0,),
    }

    @model_validator(mode="after")
    def answers_are_countable(self) -> CompletionRequest:
        """Refuse a request that would fill the whole queue by itself."""
        num_answers = len(self.prompt) * self.n
        if num_answers > MAX_ANSWERS:
            message = f"prompts times n are {num_answers} answers, and a request may ask for {MAX_ANSWERS}"
            raise ApiError(400, message, param="prompt", code="request_too_large")
        return self


class TextPart(RequestModel):
    """A piece of a message. Images and audio are refused by their type."""

    type: Literal["text"]
    text: str


class Message(RequestModel):
    """One turn. `developer` is what OpenAI now calls `system`; templates know it by the older name."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None
    neutral_values = {
        "refusal": (),
        "tool_calls": ([],),
        "function_call": (),
        "audio": (),
        "annotations": ([],),
    }

    def as_template_input(self) -> dict[str, Any]:
        """The message as chat templates read it: plain text content."""
        role = "system" if self.role == "developer" else self.role
        is_text = isinstance(self.content, str)
        text = self.content if is_text else "".join(part.text for part in self.content)  # type: ignore[union-attr]
        return {"role": role, "content": text} | ({"name": self.name} if self.name else {})


Messages = Annotated[list[Message], Field(min_length=1)]


class ChatRequest(GenerationRequest):
    """POST /v1/chat/completions."""

    messages: Messages
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_LOGPROBS)
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    neutral_values = {
        "presence_penalty": (0,),
        "frequency_penalty": (0,),
        "tools": ([],),
        "tool_choice": ("none", "auto"),
        "parallel_tool_calls": (True, False),
        "functions": ([],),
        "function_call": ("none", "auto"),
        "response_format": ({"type": "text"},),
        "modalities": (["text"],),
        "store": (False,),
        "metadata": ({},),
        "service_tier": ("auto", "default"),
        "audio": (),
        "prediction": (),
        "reasoning_effort": (),
        "verbosity": (),
        "web_search_options": (),
    }

    @model_validator(mode="after")
    def options_agree(self) -> ChatRequest:
        """Refuse alternatives without logprobs, and two limits that differ."""
        if self.top_logprobs is not None and not self.logprobs:
            raise ApiError(400, "top_logprobs is only allowed with logprobs: true", param="top_logprobs")
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise ApiError(400, "max_tokens and max_completion_tokens differ", param="max_tokens")
        return self


class TokenizeRequest(RequestModel):
    """POST /v1/tokenize: the tokens of one text, or of a conversation as its template writes it."""

    model: str
    prompt: str | None = None
    messages: Messages | None = None
    add_special_tokens: bool = True

    @model_validator(mode="after")
    def one_input(self) -> TokenizeRequest:
        """Exactly one of `prompt` and `messages`."""
        if (self.prompt is None) == (self.messages is None):
            raise ApiError(400, "exactly one of prompt and messages is needed", param="prompt")
        return self
