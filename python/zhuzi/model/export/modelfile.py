"""Ollama's Modelfile beside a GGUF file: its template, where an answer ends, how it is drawn."""

from __future__ import annotations

import json

from zhuzi.infer.prompt import PREFACE, PROMPT
from zhuzi.infer.sampling import Sampling
from zhuzi.tokenizer import Tokenizer


def modelfile(file: str, tokenizer: Tokenizer, *, alpaca: bool) -> str:
    """The text of a Modelfile for the GGUF file of that name.

    Ollama has templates of its own kind (Go's), and reads a Jinja template in a GGUF file only if it knows
    it: `alpaca` writes the published prompt; for others a comment says what to add.
    """
    drawn = Sampling()
    lines = [f"FROM ./{file}"]
    if alpaca and tokenizer.bos_id is not None and tokenizer.eos_id is not None:
        bos, eos = tokenizer.id_to_token(tokenizer.bos_id), tokenizer.id_to_token(tokenizer.eos_id)
        before, after = PROMPT.removeprefix(PREFACE).split("{instruction}")
        # Variables: what a prompt begins with, as a system message changes it, and the BOS of later questions
        # (llama.cpp puts the first one there).
        lines.append(
            f'TEMPLATE """{{{{ $bos := "" }}}}{{{{ $preface := {json.dumps(PREFACE)} }}}}'
            '{{ range .Messages }}{{ if eq .Role "system" }}{{ $preface = .Content }}'
            '{{ else if eq .Role "user" }}'
            f'{{{{ $bos }}}}{{{{ $preface }}}}{before}{{{{ .Content }}}}{after}{{{{ $bos = "{bos}" }}}}'
            f'{{{{ else if eq .Role "assistant" }}}}{{{{ .Content }}}}{eos}{{{{ end }}}}{{{{ end }}}}"""'
        )
        lines.append(f'PARAMETER stop "{eos}"')
    else:
        lines.append(
            "# Ollama needs the prompt as a Go template: add TEMPLATE, after the Jinja one in the GGUF file."
        )
    lines += [
        f"PARAMETER temperature {drawn.temperature}",
        f"PARAMETER top_p {drawn.top_p}",
        f"PARAMETER top_k {drawn.top_k}",
        f"PARAMETER repeat_penalty {drawn.repetition_penalty}",
        f"PARAMETER num_predict {drawn.max_new_tokens}",
    ]
    return "\n".join(lines) + "\n"
