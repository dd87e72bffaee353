"""Ollama's Modelfile beside a GGUF file: its template, where an answer ends, how it is drawn."""

from __future__ import annotations

from zhuzi.infer.prompt import PROMPT
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
        before, after = PROMPT.split("{instruction}")
        # llama.cpp puts the first BOS there.
        turn = f"{{{{ if $i }}}}{bos}{{{{ end }}}}{before}{{{{ $m.Content }}}}{after}"
        lines.append(
            f'TEMPLATE """{{{{ range $i, $m := .Messages }}}}{{{{ if eq $m.Role "user" }}}}{turn}'
            f'{{{{ else if eq $m.Role "assistant" }}}}{{{{ $m.Content }}}}{eos}{{{{ end }}}}{{{{ end }}}}"""'
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
