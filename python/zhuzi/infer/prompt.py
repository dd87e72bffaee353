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


def question(instruction: str, input: str = "") -> str:
    """What is asked: the instruction, and a non-empty `input` after a newline."""
    return f"{instruction}\n{input}" if input else instruction


def format_prompt(
    instruction: str,
    input: str = "",  # as in Alpaca's records
    *,
    preface: str = PREFACE,
) -> str:
    """The prompt for an instruction; a non-empty `input` is appended to it after a newline.

    A system prompt is given as `preface`, in whose place it stands.
    """
    instruction = question(instruction, input)
    # Not str.format: an instruction is text, not a template, and may contain braces.
    return preface + PROMPT.removeprefix(PREFACE).replace("{instruction}", instruction)
