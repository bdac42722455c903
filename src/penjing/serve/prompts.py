"""From what a request says to the tokens that the engine gets. All of this may run outside the event loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from penjing.errors import TokenizerError
from penjing.serve.http_errors import ApiError
from penjing.serve.protocol import Message, Prompt
from penjing.serve.service import Model


def encode_prompts(model: Model, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Texts with the tokenizer's special tokens around them; token lists as they are."""
    return [encode_text(model, prompt) if isinstance(prompt, str) else prompt for prompt in prompts]


def encode_text(model: Model, text: str, add_special_tokens: bool = True) -> list[int]:
    """The tokens of one text. Raises ApiError 400 if it has none, or the model no tokenizer."""
    with refusals(model, "prompt"):
        return model.engine.tokenizer.encode(text, add_special=add_special_tokens)


def encode_chat(model: Model, messages: Sequence[Message]) -> list[int]:
    """The tokens of a conversation as the model's template writes it. Raises ApiError 400 if it cannot."""
    with refusals(model, "messages"):
        tokenizer = model.engine.tokenizer
        return tokenizer.encode(tokenizer.render_chat([message.as_template_input() for message in messages]))


@contextmanager
def refusals(model: Model, param: str) -> Iterator[None]:
    """Say what the tokenizer refuses as a 400, the artifact's directory replaced by its name."""
    try:
        yield
    except TokenizerError as error:
        message = str(error).replace(str(model.engine.artifact.path), model.root)
        raise ApiError(400, message, param=param, code="tokenizer_error") from None
