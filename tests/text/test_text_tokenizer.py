from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from text_samples import byte_fallback, byte_level, write_tokenizer

from penjing.errors import TokenizerError
from penjing.text import Tokenizer

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": 'Hi <b>"there"</b>, 盆景'},
    {"role": "assistant", "content": " Hello. "},
    {"role": "user", "content": "Bye"},
]
CHATML = """{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}"""
LLAMA2 = """{% if messages[0]['role'] == 'system' %}
  {% set system = messages[0]['content'] %}{% set messages = messages[1:] %}
{% endif %}
{% for message in messages %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('Roles must alternate') }}
    {% endif %}
    {% if loop.first and system is defined %}<<SYS>>{{ system | trim }}<</SYS>>{% endif %}
    {% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + message['content'].strip() + ' [/INST]' }}
    {% else %}
        {% generation %}{{ ' ' + message['content'] | trim + ' ' + eos_token }}{% endgeneration %}
    {% endif %}
    {% if loop.last %}{% break %}{% endif %}
{% endfor %}"""
TOJSON = "{{ messages | tojson }}{{ messages[0] | tojson(indent=2) }}{% if tools %}never{% endif %}"
TEMPLATES = {"chatml": CHATML, "llama2": LLAMA2, "tojson": TOJSON}


def load(directory: Path, **changes: Any) -> Tokenizer:
    return Tokenizer.load(write_tokenizer(directory, byte_level(), changes))


def test_encode_and_decode(tmp_path: Path) -> None:
    for name, backend in (("level", byte_level()), ("fallback", byte_fallback())):
        tokenizer = Tokenizer.load(write_tokenizer(tmp_path / name, backend))
        text = "the cat, 盆景\n\ttwo  spaces "
        plain, special = tokenizer.encode(text), tokenizer.encode(text, add_special=True)
        assert tokenizer.decode(plain) == tokenizer.decode(special) == text
        assert special == [tokenizer.bos_id, *plain]
        assert tokenizer.decode(special, skip_special=False).startswith("<s>")
        assert tokenizer.vocab_size == backend.get_vocab_size()
        assert tokenizer.encode("") == []
        assert tokenizer.encode("<|user|>") == [backend.token_to_id("<|user|>")]
        assert tokenizer.decode([10**6, *plain]) == text


def test_token_ids(tmp_path: Path) -> None:
    tokenizer = load(tmp_path / "strings")
    assert (tokenizer.bos_id, tokenizer.eos_ids) == (0, (1,))
    tokenizer = load(tmp_path / "objects", bos_token={"content": "<s>"}, eos_token={"content": "<|user|>"})
    assert (tokenizer.bos_id, tokenizer.eos_ids) == (0, (2,))
    tokenizer = load(tmp_path / "none", bos_token=None, eos_token=None)
    assert (tokenizer.bos_id, tokenizer.eos_ids) == (None, ())
    (tmp_path / "none" / "tokenizer_config.json").unlink()
    assert Tokenizer.load(tmp_path / "none").eos_ids == ()


@pytest.mark.parametrize(
    ("value", "expected"), [(2, (2, 1)), ([5, 1, 2], (5, 1, 2)), (None, (1,)), (0, (0, 1))]
)
def test_generation_settings_come_first(tmp_path: Path, value: object, expected: tuple[int, ...]) -> None:
    load(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": value}))
    assert Tokenizer.load(tmp_path).eos_ids == expected


@pytest.mark.parametrize("value", [-5, "</s>", [[1]], True, 2.0])
def test_ends_of_text_that_are_no_tokens(tmp_path: Path, value: object) -> None:
    load(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": value}))
    with pytest.raises(TokenizerError, match="not token ids"):
        Tokenizer.load(tmp_path)


def test_truncation_saved_in_the_file_is_switched_off(tmp_path: Path) -> None:
    backend = byte_level()
    backend.enable_truncation(4)
    backend.enable_padding(length=8)
    tokenizer = Tokenizer.load(write_tokenizer(tmp_path, backend))
    assert (
        tokenizer.decode(tokenizer.encode("a longer text than four tokens"))
        == "a longer text than four tokens"
    )


def test_half_a_surrogate_pair(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="surrogate"):
        load(tmp_path).encode("\ud83d")


def test_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"no tokenizer\.json"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json", "generation_config.json"])
@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 100_000, "\xff"])
def test_broken_files(tmp_path: Path, file: str, content: str) -> None:
    load(tmp_path)
    (tmp_path / file).write_bytes(content.encode("latin-1"))
    with pytest.raises(TokenizerError, match=file.replace(".", r"\.")) as caught:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_no_template(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="no chat template"):
        load(tmp_path).render_chat(MESSAGES)


@pytest.mark.parametrize("name", sorted(TEMPLATES))
@pytest.mark.parametrize("prompt", [True, False])
def test_renders_as_transformers_does(tmp_path: Path, name: str, prompt: bool) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = load(tmp_path, chat_template=TEMPLATES[name])
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "tokenizer.json"), bos_token="<s>", eos_token="</s>"
    )
    theirs.chat_template = TEMPLATES[name]
    expected = theirs.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=prompt)
    assert tokenizer.render_chat(MESSAGES, add_generation_prompt=prompt) == expected


def test_known_rendering(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, chat_template=CHATML)
    assert tokenizer.render_chat([{"role": "user", "content": "Hi"}]) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_where_the_template_may_be(tmp_path: Path) -> None:
    templates = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}]
    assert load(tmp_path, chat_template=templates).render_chat(MESSAGES) == "yes"
    (tmp_path / "chat_template.jinja").write_text("own file {{ bos_token }}")
    assert Tokenizer.load(tmp_path).render_chat(MESSAGES) == "own file <s>"
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(TokenizerError, match="chat_template"):
        Tokenizer.load(tmp_path)


def test_today(tmp_path: Path) -> None:
    year = load(tmp_path, chat_template="{{ strftime_now('%Y') }}").render_chat(MESSAGES)
    assert year.isdigit()


@pytest.mark.parametrize("template", ["{% for %}", "{{ 'a' ", "{% unknown %}", 7])
def test_template_that_does_not_compile(tmp_path: Path, template: object) -> None:
    with pytest.raises(TokenizerError, match=r"chat.template"):
        load(tmp_path, chat_template=template).render_chat(MESSAGES)


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('no\\nsystem') }}",
        "{{ messages[0].content.missing.deeper }}",
        "{{ 1 / 0 }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{% include 'x' %}",
        "{{ messages | tojson(indent=[]) }}",
    ],
)
def test_template_that_refuses_or_attacks(tmp_path: Path, template: str) -> None:
    tokenizer = load(tmp_path, chat_template=template)
    with pytest.raises(TokenizerError, match="refused") as caught:
        tokenizer.render_chat(MESSAGES)
    assert "\n" not in str(caught.value)
