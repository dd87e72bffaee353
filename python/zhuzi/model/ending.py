"""Where a tuned model stops: the token that ends its template's answers, in generation_config.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zhuzi.errors import InputError
from zhuzi.model.folder import GENERATION
from zhuzi.record.json_file import read_object, write_json
from zhuzi.tokenizer import Tokenizer


def write_ending(folder: Path, tokenizer: Tokenizer, template: Mapping[str, Any] | None) -> None:
    """Add the token that ends an answer to what generation stops at, unless it is EOS.

    `template` is what the folder's record says of it (`zhuzi.infer.templates.describe`).
    """
    end = None if template is None else template.get("end")
    id = tokenizer.token_to_id(end) if isinstance(end, str) else None
    if id is None or id == tokenizer.eos_id:
        return
    path = folder / GENERATION
    held = read_object(path, InputError) if path.is_file() else {}
    stops = [it for it in (tokenizer.eos_id, id) if it is not None]
    write_json(path, {**held, "eos_token_id": stops})
