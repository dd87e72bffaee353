"""The published prompt of Chinese Alpaca: a wire format, byte for byte the same wherever models are served.

Cui, Yang, Yao 2023 (arXiv 2304.08177). It has no input field: an input follows the instruction
after a newline.
"""

from __future__ import annotations

PROMPT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response: "
)


def format_prompt(instruction: str, input: str = "") -> str:  # as in Alpaca's records
    """The prompt for an instruction; a non-empty `input` is appended to it after a newline."""
    if input:
        instruction = f"{instruction}\n{input}"
    # Not str.format: an instruction is text, not a template, and may contain braces.
    return PROMPT.replace("{instruction}", instruction)
