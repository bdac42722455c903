"""A checkpoint's own tokenizer, from the files that lie beside the tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from penjing.errors import TokenizerError
from penjing.text.chat import ChatTemplate
from penjing.text.stream import TextStream

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
GENERATION_FILE = "generation_config.json"
TEMPLATE_FILE = "chat_template.jinja"


class Tokenizer:
    """Text to token ids and back. Make one with `Tokenizer.load`.

    bos_id: the token that begins a text, or None. eos_ids: the tokens that end one.
    """

    def __init__(
        self,
        backend: Any,
        directory: Path,
        special_tokens: Mapping[str, str],
        template: str | None,
        generation_eos: Sequence[int],
    ) -> None:
        self.backend = backend
        self.directory = directory
        self.special_tokens = special_tokens
        self.template = template
        bos, eos = special_tokens.get("bos_token"), special_tokens.get("eos_token")
        self.bos_id: int | None = None if bos is None else backend.token_to_id(bos)
        own_eos = None if eos is None else backend.token_to_id(eos)
        candidates = [*generation_eos, *([] if own_eos is None else [own_eos])]
        self.eos_ids: tuple[int, ...] = tuple(dict.fromkeys(candidates))

    @classmethod
    def load(cls, directory: str | Path) -> Tokenizer:
        """Read tokenizer.json and, where present, its configuration, chat template and end-of-text ids.

        Raises TokenizerError if there is no tokenizer, or a file cannot be used.
        """
        directory = Path(directory)
        path = directory / TOKENIZER_FILE
        if not path.is_file():
            raise TokenizerError(f"{directory}: no {TOKENIZER_FILE} in it; add the one of the original model")
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise TokenizerError(f"{path}: cannot be used ({' '.join(str(error).split())})") from None
        backend.no_truncation()
        backend.no_padding()
        config = read_json(directory / CONFIG_FILE)
        generation_eos = read_eos(directory / GENERATION_FILE)
        template = find_template(directory, config)
        return cls(backend, directory, special_tokens(config), template, generation_eos)

    @cached_property
    def chat(self) -> ChatTemplate:
        """The chat template, compiled. Raises TokenizerError if there is none, or it does not compile."""
        if self.template is None:
            raise TokenizerError(f"{self.directory}: the model has no chat template; send plain text instead")
        return ChatTemplate(self.template, str(self.directory), self.special_tokens)

    @property
    def vocab_size(self) -> int:
        """Tokens it knows, added ones included; a model's own vocabulary may be padded beyond."""
        return int(self.backend.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str, add_special: bool = False) -> list[int]:
        """Token ids of a text; `add_special` puts what the tokenizer prescribes (<s>, say) around it.

        Special tokens written out in the text become those tokens. Raises TokenizerError for half a
        surrogate pair, which is not text.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise TokenizerError("the text holds half a surrogate pair; send valid Unicode") from None
        return list(self.backend.encode(text, add_special_tokens=add_special).ids)

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """The text of token ids; special tokens are left out, and bytes that are not UTF-8 become U+FFFD."""
        return str(self.backend.decode(list(ids), skip_special_tokens=skip_special))

    def streamer(self) -> TextStream:
        """A decoder for tokens that come one at a time."""
        return TextStream(self.decode)

    def render_chat(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True) -> str:
        """The prompt for a conversation; encode it without `add_special`, templates write their own.

        Raises TokenizerError if the model has no chat template, it does not compile, or refuses the messages.
        """
        return self.chat.render(messages, add_generation_prompt)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from an optional file. Raises TokenizerError if it is there and broken."""
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise TokenizerError(f"{path}: cannot be read ({error})") from None
    if not isinstance(data, dict):
        raise TokenizerError(f"{path}: not a JSON object")
    return data


def read_eos(path: Path) -> list[int]:
    """The tokens that end a text, from the generation settings. Raises TokenizerError."""
    value = read_json(path).get("eos_token_id")
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in ids):
        raise TokenizerError(f"{path}: eos_token_id is {value!r}, not token ids; correct it")
    return ids


def special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """bos_token, eos_token and their like; each is a string, or an object with its `content`."""
    found = {}
    for key, value in config.items():
        content = value.get("content") if isinstance(value, dict) else value
        if key.endswith("_token") and isinstance(content, str):
            found[key] = content
    return found


def find_template(directory: Path, config: Mapping[str, Any]) -> str | None:
    """The chat template: a file of its own, a string, or the one named `default` among several."""
    path = directory / TEMPLATE_FILE
    if path.is_file():
        try:
            return path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise TokenizerError(f"{path}: cannot be read ({error})") from None
    template = config.get("chat_template")
    if isinstance(template, list):
        named = {item.get("name"): item.get("template") for item in template if isinstance(item, dict)}
        template = named.get("default")
    if template is not None and not isinstance(template, str):
        raise TokenizerError(f"{directory / CONFIG_FILE}: chat_template is not text")
    return template
