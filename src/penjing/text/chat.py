"""Chat templates, rendered as transformers renders them, in a sandbox: they are programs by strangers.

jinja2 is loaded with the first template, not before: many programs never see one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

from penjing.errors import TokenizerError

if TYPE_CHECKING:
    from jinja2 import nodes
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """The `tojson` filter, without jinja2's escaping of HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def raise_exception(message: str) -> NoReturn:
    """How a template refuses a conversation."""
    import jinja2

    raise jinja2.TemplateError(message)


def current_time(format: str) -> str:
    """`strftime_now`: today's date, which some templates put into the system prompt."""
    return datetime.now().strftime(format)


def new_environment() -> ImmutableSandboxedEnvironment:
    """What templates may use, as transformers has it."""
    import jinja2.ext
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class GenerationTag(jinja2.ext.Extension):
        """`{% generation %}...{% endgeneration %}` marks an answer for training; here it is text."""

        tags = {"generation"}  # noqa: RUF012  (declared so by jinja2)

        def parse(self, parser: Parser) -> list[nodes.Node]:
            """Replace the tag by its body."""
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals |= {"raise_exception": raise_exception, "strftime_now": current_time}
    return environment


class ChatTemplate:
    """A compiled template. Raises TokenizerError if it cannot be compiled; `origin` is for messages."""

    def __init__(self, source: str, origin: str, special_tokens: Mapping[str, str]) -> None:
        import jinja2

        self.origin = origin
        self.special_tokens = special_tokens
        try:
            self.template = new_environment().from_string(source)
        except jinja2.TemplateError as error:
            raise TokenizerError(
                f"{origin}: the chat template does not compile ({one_line(error)})"
            ) from None

    def render(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool) -> str:
        """The prompt for a conversation of {"role", "content"} messages.

        Raises TokenizerError with the template's own words if it refuses the conversation.
        """
        try:
            return self.template.render(
                messages=list(messages),
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self.special_tokens,
            )
        except Exception as error:  # templates fail in as many ways as programs do
            raise TokenizerError(f"{self.origin}: the chat template refused ({one_line(error)})") from None


def one_line(error: Exception) -> str:
    """An error's text without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__
