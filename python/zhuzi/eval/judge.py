"""Which of two answers is better, by a model at an OpenAI-compatible endpoint, asked in both orders.

A judge prefers what it reads first more often than it should (Zheng et al. 2023, arXiv 2306.05685): a pair is
won by the answer that it prefers in both orders, and is a tie otherwise.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from importlib.resources import files
from itertools import combinations

from zhuzi.endpoint import Client, Endpoint, RefusedPromptError
from zhuzi.errors import EndpointError

_VERDICT = re.compile(r"\[\[\s*([ABC])\s*\]\]|(?:结论|裁决|胜者)\s*[:：]\s*\**([ABC])\b")


@dataclass(frozen=True)
class Verdict:
    """What the judge said of one pair, in one order."""

    first: int
    """Number of the model whose answer it read first."""
    second: int
    winner: int | None
    """Number of the model, None for a tie or without a verdict."""
    text: str
    """What it wrote."""
    is_read: bool
    """Whether what it wrote holds a verdict."""


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt, judged in both orders."""

    models: tuple[int, int]
    verdicts: tuple[Verdict, Verdict] | None
    """None where both answers are the same, and nobody was asked."""

    @property
    def winner(self) -> int | None:
        """The model that won in both orders; None for a tie."""
        if self.verdicts is None or self.verdicts[0].winner != self.verdicts[1].winner:
            return None
        return self.verdicts[0].winner

    @property
    def is_read(self) -> bool:
        """Whether the judge gave a verdict in both orders."""
        return self.verdicts is None or all(verdict.is_read for verdict in self.verdicts)

    @property
    def depends_on_order(self) -> bool:
        """Whether the verdicts of the two orders differ."""
        return (
            self.verdicts is not None and self.is_read and self.verdicts[0].winner != self.verdicts[1].winner
        )


def read_verdict(text: str) -> str | None:
    """The last verdict in a text: A, B, or C for a tie; None if it holds none."""
    found = [a or b for a, b in _VERDICT.findall(text)]
    return found[-1] if found else None


def judge_prompt(question: str, first: str, second: str) -> str:
    """What a judge is asked."""
    parts = {"question": question, "first": first, "second": second}
    wording = (files("zhuzi.eval") / "judge.txt").read_text("utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], wording)


def require_judge(endpoint: Endpoint) -> None:
    """Ask a judge something small, before hours of work: raises what `Client.ask` raises."""
    with Client(endpoint) as client:
        try:
            client.ask([{"role": "user", "content": "请只回答：[[C]]"}])
        except RefusedPromptError as error:
            raise EndpointError(f"{endpoint.address}: refuses a plain question: {error}") from None


def judge(
    endpoint: Endpoint,
    questions: Sequence[str],
    answers: Sequence[Sequence[str]],
    *,
    parallel: int = 4,
    progress: Callable[[int, int], object] | None = None,
) -> list[list[Pair]]:
    """For each question the pairs of its answers, judged.

    Args:
        answers: for each question one answer of each model.
        progress: called with the questions to the judge that were answered, and all of them.

    Raises:
        EndpointError: the judge does not answer.
    """
    wanted = [
        (at, order)
        for at, given in enumerate(answers)
        for pair in combinations(range(len(given)), 2)
        if given[pair[0]].strip() != given[pair[1]].strip()
        for order in (pair, pair[::-1])
    ]
    verdicts: dict[tuple[int, tuple[int, ...]], Verdict] = {}
    stop = threading.Event()
    with Client(endpoint, stop) as client, ThreadPoolExecutor(parallel) as pool:

        def ask(at: int, first: int, second: int) -> Verdict:
            prompt = judge_prompt(questions[at], answers[at][first], answers[at][second])
            try:
                said = client.ask([{"role": "user", "content": prompt}]).text
            except RefusedPromptError as error:
                said = str(error)
            read = read_verdict(said)
            winner = {"A": first, "B": second}.get(read or "")
            return Verdict(first, second, winner, said, read is not None)

        asked = {pool.submit(ask, at, *order): (at, order) for at, order in wanted}
        try:
            for done, future in enumerate(as_completed(asked), 1):
                verdicts[asked[future]] = future.result()
                if progress is not None:
                    progress(done, len(wanted))
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [
        [
            Pair(
                (a, b),
                (verdicts[at, (a, b)], verdicts[at, (b, a)]) if (at, (a, b)) in verdicts else None,
            )
            for a, b in combinations(range(len(given)), 2)
        ]
        for at, given in enumerate(answers)
    ]
