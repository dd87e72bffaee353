"""Templates by name, from a Jinja file, and those that a folder says its model was tuned with."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zhuzi.errors import InputError
from zhuzi.infer.template import ALPACA, Message, Template
from zhuzi.infer.text_template import TextTemplate
from zhuzi.record.json_file import read_object
from zhuzi.record.provenance import RECORD, read_record
from zhuzi.tokenizer import Tokenizer

#: As OpenAI, and many models since, write it; BOS in front.
CHATML = (
    "{{- bos_token -}}\n"
    "{%- for message in messages -%}\n"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' -}}\n"
    "{%- endfor -%}\n"
    "{%- if add_generation_prompt -%}\n"
    "{{- '<|im_start|>assistant\\n' -}}\n"
    "{%- endif -%}\n"
)

#: That of Llama 2 chat (facebookresearch/llama, generation.py). The system prompt is in the first question.
LLAMA_2 = (
    "{%- set ns = namespace(system='') -%}\n"
    "{%- for message in messages -%}\n"
    "{%- if message['role'] == 'system' -%}\n"
    "{%- set ns.system = '<<SYS>>\\n' + message['content'] + '\\n<</SYS>>\\n\\n' -%}\n"
    "{%- elif message['role'] == 'user' -%}\n"
    "{{- bos_token + '[INST] ' + (ns.system + message['content']).strip() + ' [/INST]' -}}\n"
    "{%- set ns.system = '' -%}\n"
    "{%- else -%}\n"
    "{{- ' ' + message['content'].strip() + ' ' + eos_token -}}\n"
    "{%- endif -%}\n"
    "{%- endfor -%}\n"
)


class ChatML(TextTemplate):
    """ChatML, as OpenAI and many models since write it; BOS in front."""

    name = "chatml"

    @property
    def jinja(self) -> str:
        """It as a chat template."""
        return CHATML

    def written(self, messages: Sequence[Message], variables: Mapping[str, str], *, asks: bool) -> str:
        """What the chat template renders, several times as fast."""
        turns = [f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content, _ in messages]
        return "".join([variables["bos_token"], *turns, "<|im_start|>assistant\n" * asks])


class Llama2(TextTemplate):
    """That of Llama 2 chat."""

    name = "llama-2"

    @property
    def jinja(self) -> str:
        """It as a chat template."""
        return LLAMA_2

    def written(self, messages: Sequence[Message], variables: Mapping[str, str], *, asks: bool) -> str:
        """What the chat template renders, several times as fast."""
        parts, system = [], ""
        for role, content, _ in messages:
            if role == "system":
                system = f"<<SYS>>\n{content}\n<</SYS>>\n\n"
            elif role == "user":
                parts.append(f"{variables['bos_token']}[INST] {(system + content).strip()} [/INST]")
                system = ""
            else:
                parts.append(f" {content.strip()} {variables['eos_token']}")
        return "".join(parts)


_NAMED: dict[str, Template] = {it.name: it for it in (ALPACA, Llama2(), ChatML())}

#: Names of templates that need no file.
NAMES = tuple(_NAMED)

#: Bytes of a template's file, at most.
_MOST = 1 << 20


def template_named(name: str) -> Template:
    """The template of a name, or of a Jinja file.

    Raises:
        InputError: no such name or file, or no template in it.
    """
    if name in _NAMED:
        return _NAMED[name]
    path = Path(name)
    if not path.is_file():
        near = difflib.get_close_matches(name, NAMES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"want {', '.join(NAMES)}, or a Jinja file"
        raise InputError(f"{name}: no such template; {hint}")
    return _jinja(path.name, _read(path))


def template_of(folder: Path) -> Template:
    """The template that a model or adapter was tuned with.

    It is in the folder's record, else where transformers has it; without any it is the published one.

    Raises:
        InputError: a damaged record or template.
    """
    recorded = recorded_template(folder)
    if recorded is not None:
        return recorded
    found = source_of_others(folder)
    return ALPACA if found is None else _of_source(f"of {folder.name}", found)


def usable_template(folder: Path, tokenizer: Tokenizer) -> Template:
    """As `template_of`, but the published one in place of a template of others that cannot be used.

    Raises:
        InputError: a damaged record, or the tokenizer lacks a token of the template.
    """
    template = ALPACA if why_unusable(folder, tokenizer) else template_of(folder)
    template.require(tokenizer)
    return template


def why_unusable(folder: Path, tokenizer: Tokenizer) -> str | None:
    """Why the chat template of a folder of others cannot be used; None if it can, or there is none."""
    if recorded_template(folder) is not None:
        return None
    try:
        template = template_of(folder)
        if template is not ALPACA:
            template.require(tokenizer)
    except (InputError, ModuleNotFoundError) as error:
        return str(error)
    return None


def recorded_template(folder: Path) -> Template | None:
    """The template in the record of a folder that Zhuzi wrote; raises as `template_of` does."""
    told = (read_record(folder) or {}).get("template")
    return None if told is None else _recorded(told, folder / RECORD)


def source_of_others(folder: Path) -> str | None:
    """The chat template in `chat_template.jinja` or `tokenizer_config.json`; None without one."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return _read(path)
    config = folder / "tokenizer_config.json"
    held = read_object(config, InputError).get("chat_template") if config.is_file() else None
    if isinstance(held, list):  # several, by name
        named = {it.get("name"): it.get("template") for it in held if isinstance(it, dict)}
        held = named.get("default")
    return held if isinstance(held, str) else None


def describe(template: Template, tokenizer: Tokenizer) -> dict[str, str | None]:
    """What a folder's record says of a template: its name, itself, and the token that ends an answer."""
    end = template.end_id(tokenizer)
    token = None if end is None else tokenizer.id_to_token(end)
    return {"name": template.name, "jinja": template.jinja, "end": token}


def _recorded(told: Any, place: Path) -> Template:
    if not (isinstance(told, dict) and all(isinstance(told.get(key), str) for key in ("name", "jinja"))):
        raise InputError(f"{place}: template is not a name and a Jinja template; take the folder again")
    if told["name"] == ALPACA.name:  # whose ids no Jinja template gives in later turns
        return ALPACA
    return _of_source(told["name"], told["jinja"])


def _read(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(_MOST + 1)
    if len(data) > _MOST:
        raise InputError(f"{path}: too large for a template")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start:,}; convert it to UTF-8 first") from None


def _of_source(name: str, source: str) -> Template:
    """The named template that has this source, else a Jinja template."""
    return next((it for it in _NAMED.values() if it.jinja == source), None) or _jinja(name, source)


def _jinja(name: str, source: str) -> Template:
    from zhuzi.infer.jinja import JinjaTemplate  # jinja2 is not always there, nor needed

    return JinjaTemplate(name, source)
