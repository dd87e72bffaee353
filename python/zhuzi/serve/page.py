"""The chat page of a server: one file that needs nothing from elsewhere."""

from __future__ import annotations

from zhuzi.pages import render
from zhuzi.serve.model import ServedModel
from zhuzi.serve.settings import ServeSettings

#: What a browser lets the page do: run itself and ask this server.
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}

_LONGEST = 4096


def chat_page(model: ServedModel, settings: ServeSettings) -> str:
    """The page, in English and Chinese; its sliders begin at the server's own settings."""
    drawn = settings.sampling
    longest = min(model.engine.positions or _LONGEST, _LONGEST)
    sliders = [
        (
            "temperature",
            ("Temperature (0: the likeliest token)", "温度（0：总取最可能的 token）"),
            0,
            2,
            0.05,
        ),
        (
            "top_p",
            ("Top-p: the likeliest tokens up to this sum", "Top-p：取概率之和到此为止的 token"),
            0.05,
            1,
            0.05,
        ),
        (
            "top_k",
            ("Top-k: as many of the likeliest (0: all)", "Top-k：只取最可能的若干个（0：全部）"),
            0,
            200,
            1,
        ),
        ("repetition_penalty", ("Repetition penalty (1: none)", "重复惩罚（1：不惩罚）"), 1, 2, 0.05),
        ("max_tokens", ("Longest answer, in tokens", "回答最多多少个 token"), 1, longest, 1),
    ]
    values = {**vars(drawn), "max_tokens": min(drawn.max_new_tokens, longest)}
    return render(
        "serve/chat.html.j2",
        title=model.name,
        packages=["torch", "transformers"],
        model=model.name,
        positions=model.engine.positions,
        key=settings.key is not None,
        seed=drawn.seed,
        system=settings.system,
        history=settings.history,
        sliders=[(*slider, values[slider[0]]) for slider in sliders],
        own={slider[0]: values[slider[0]] for slider in sliders},
    )
