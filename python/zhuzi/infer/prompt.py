"""The published prompt of Chinese Alpaca: a wire format, byte for byte the same wherever models are served.

Cui, Yang, Yao 2023 (arXiv 2304.08177). It has no input field: an input follows the instruction
after a newline.
"""

from __future__ import annotations

PREFACE = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request."
)

PROMPT = PREFACE + "\n\n### Instruction:\n{instruction}\n\n### Response: "


def format_prompt(
    instruction: str,
    input: str = "",  # as in Alpaca's records
    *,
    preface: str = PREFACE,
) -> str:
    """The prompt for an instruction; a non-empty `input` is appended to it after a newline.

    A system prompt is given as `preface`, in whose place it stands.
    """
    if input:
        instruction = f"{instruction}\n{input}"
    # Not str.format: an instruction is text, not a template, and may contain braces.
    return preface + PROMPT.removeprefix(PREFACE).replace("{instruction}", instruction)
