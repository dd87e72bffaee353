"""What a collection holds after some calls: a function of their outcomes, taken in the order of the calls.

When answers arrive, how many are asked for at once, and how often the process was killed change nothing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from zhuzi._show import Report, count
from zhuzi.instruct.budget import Budget
from zhuzi.instruct.filters import Filters, Judge
from zhuzi.instruct.journal import Outcome
from zhuzi.instruct.parse import Parsed, parse_answer
from zhuzi.instruct.prompts import Material, make_prompt

#: Calls one after the other that give no new record, after which a collection ends.
FRUITLESS = 10


@dataclass(frozen=True)
class Record:
    """A record that was kept, and where it came from."""

    parsed: Parsed
    call: int
    place: int
    """Its number among the records that were read in the answer, from 0."""
    task: str | None
    topic: str | None


class Collection:
    """Takes outcomes in the order of their calls, and keeps the records."""

    def __init__(
        self, material: Material, *, seed: int, per_call: int, budget: Budget, filters: Filters
    ) -> None:
        self.material, self.seed, self.per_call, self.budget = material, seed, per_call, budget
        self.records: list[Record] = []
        self.calls = 0  # taken: the next one has this number
        self.prompt_tokens = self.answer_tokens = self.estimated = 0
        self.refused: Counter[str] = Counter()
        self.cut_answers = self.answers_without_records = 0
        self.left_out: Counter[str] = Counter()
        self._judge = Judge(filters, material.seeds)
        self._fruitless = 0
        self.first_unread: str | None = None

    @property
    def end(self) -> str | None:
        """Why no later call counts; None as long as another does."""
        budget = self.budget
        if budget.records is not None and len(self.records) >= budget.records:
            return "records"
        if budget.max_calls is not None and self.calls >= budget.max_calls:
            return "calls"
        if budget.is_spent(self.prompt_tokens, self.answer_tokens):
            within = (
                budget.max_tokens is not None and self.prompt_tokens + self.answer_tokens >= budget.max_tokens
            )
            return "tokens" if within else "cost"
        return "nothing new" if self._fruitless >= FRUITLESS else None

    @property
    def cost(self) -> float:
        """What the calls cost, by the prices of the budget."""
        return self.budget.price(self.prompt_tokens, self.answer_tokens)

    def take(self, outcome: Outcome) -> None:
        """Take the outcome of the next call."""
        assert outcome.call == self.calls and self.end is None
        self.calls += 1
        before = len(self.records)
        if outcome.refused is not None:
            self.refused[outcome.refused] += 1
        else:
            self.prompt_tokens += outcome.prompt_tokens
            self.answer_tokens += outcome.answer_tokens
            self.estimated += outcome.estimated
            self.cut_answers += outcome.cut
            self._read(outcome)
        self._fruitless = 0 if len(self.records) > before else self._fruitless + 1

    def _read(self, outcome: Outcome) -> None:
        answer = parse_answer(outcome.text)
        self.left_out["incomplete"] += answer.broken
        if not answer.records:
            self.answers_without_records += 1
            if self.first_unread is None:
                self.first_unread = " ".join(outcome.text.split())[:60]
        prompt = make_prompt(self.material, seed=self.seed, call=outcome.call, count=self.per_call)
        for place, (parsed, task, topic) in enumerate(prompt.sources(answer)):
            if self.budget.records is not None and len(self.records) >= self.budget.records:
                return
            reason = self._judge.reason(parsed)
            if reason is not None:
                self.left_out[reason] += 1
            else:
                self.records.append(Record(parsed, outcome.call, place, task, topic))

    def lines(self) -> Iterator[str]:
        """The file, line by line: Alpaca's records."""
        for record in self.records:
            parsed = record.parsed
            held = {"instruction": parsed.instruction, "input": parsed.input, "output": parsed.output}
            yield json.dumps(held, ensure_ascii=False) + "\n"

    def source_lines(self, facts: dict[str, Any]) -> Iterator[str]:
        """Where each record came from, as one JSON object with a line for each record of the file."""
        columns = ["call", "place", "task", "topic"]
        head = json.dumps({**facts, "columns": columns}, ensure_ascii=False, indent=1)
        yield head.rstrip("}\n") + ',\n "records": [\n'
        last = len(self.records) - 1
        for at, record in enumerate(self.records):
            row = [record.call, record.place, record.task, record.topic]
            yield "  " + json.dumps(row, ensure_ascii=False) + (",\n" if at < last else "\n")
        yield " ]\n}\n"


@dataclass(frozen=True, repr=False)
class CollectedInstructions(Report):
    """What `collect_instructions` wrote."""

    path: str
    records: int
    calls: int
    """Calls whose answers are in the file."""
    prompt_tokens: int
    answer_tokens: int
    cost: float
    """By the prices given; 0 without."""
    ended_by: str
    """`records`, `calls`, `tokens`, `cost`, or `nothing new`: the last calls gave no new record."""
    left_out: dict[str, int]
    """Records that were not kept, by the reason."""
    refused: dict[str, int]
    """Calls that the endpoint refused, by its reason."""
    cut_answers: int
    """Answers that ended at a limit of tokens: their whole records were taken."""
    answers_without_records: int
    estimated: int
    """Answers whose tokens are estimated, because the endpoint did not count them."""
    unused_answers: int
    """Answers to calls that were in flight when a limit was reached: kept for a larger budget."""
    lost_calls: int
    """Calls that an earlier process sent, and did not live to see answered: they were sent again."""
    retried: dict[str, int]
    """Tries again of this process, by their reason."""
    outcome: str
    """`finished`, or `already`: an earlier run finished."""

    def _headline(self) -> str:
        return (
            f"{self.path}: {count(self.records, 'record')} from {count(self.calls, 'call')}, "
            f"{count(self.prompt_tokens + self.answer_tokens, 'token')}"
        )

    def text(self) -> str:
        """The figures as lines of text."""
        head = f"{self.path}: {count(self.records, 'record')} from {count(self.calls, 'call')}"
        tokens = f"{self.prompt_tokens:,} tokens of prompts, {self.answer_tokens:,} of answers"
        cost = f", costing {self.cost:.4g}" if self.cost else ""
        lines = [f"{head} ({tokens}{cost})"]
        if self.outcome == "already":
            lines.insert(0, f"{self.path}: finished before by the same command; nothing to do")
        if self.ended_by == "nothing new":
            lines.append(
                f"ended before its limit: the last {FRUITLESS} calls gave no new record; another seed, more "
                "topics or another model may give some"
            )
        lines += _listed("left out", "record", self.left_out)
        lines += _listed("refused by the endpoint", "call", self.refused)
        for number, noun, what in (
            (self.answers_without_records, "answer", "without a record that can be read"),
            (self.cut_answers, "answer", "ended at a limit of tokens; their whole records were taken"),
            (self.estimated, "answer", "not counted by the endpoint: their tokens are an estimate"),
            (self.unused_answers, "answer", "came after the limit was reached: kept for a larger budget"),
            (
                self.lost_calls,
                "call",
                "sent again, as an earlier run ended before their answers",
            ),
        ):
            if number:
                lines.append(f"{count(number, noun)} {what}")
        return "\n".join([*lines, *_listed("tried again", "request", self.retried)])


def _listed(what: str, noun: str, counts: dict[str, int]) -> Iterable[str]:
    """One line for counts by reason; none if there are none."""
    held = sorted(((n, reason) for reason, n in counts.items() if n), reverse=True)
    if not held:
        return []
    shown = ", ".join(f"{reason} {n:,}" for n, reason in held[:8])
    return [f"{what}: {count(sum(n for n, _ in held), noun)} ({shown})"]
