"""Answers of several models to the same prompts, side by side."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zhuzi._show import Report, count
from zhuzi.endpoint import Endpoint
from zhuzi.errors import EndpointError, InputError
from zhuzi.eval.judge import Pair, judge, require_judge
from zhuzi.eval.models import ModelToCompare, open_models
from zhuzi.infer.chat import prompt_ids
from zhuzi.infer.generate import require_room
from zhuzi.infer.sampling import Sampling
from zhuzi.model.positions import positions
from zhuzi.record.json_file import write_json
from zhuzi.record.output import new_file
from zhuzi.record.place import PathLike
from zhuzi.record.provenance import stamped


@dataclass(frozen=True)
class PromptToCompare:
    """What all models are asked."""

    instruction: str
    input: str = ""
    reference: str = ""
    """An answer to compare with, if the file has one."""

    @property
    def question(self) -> str:
        """Instruction and input as one text."""
        return f"{self.instruction}\n{self.input}" if self.input else self.instruction


@dataclass(frozen=True)
class Score:
    """How a model did in the pairs that were judged."""

    model: str
    wins: int
    ties: int
    losses: int


@dataclass(frozen=True, repr=False)
class Comparison(Report):
    """What `compare_models` made."""

    models: list[str]
    prompts: list[PromptToCompare]
    answers: list[list[str]]
    """For each prompt the answer of each model."""
    orders: list[list[int]]
    """For each prompt the order in which a blind page shows the models."""
    fingerprints: dict[str, str]
    sampling: Sampling
    judged_by: str | None = None
    """The judge's model and address."""
    pairs: list[list[Pair]] = field(default_factory=list)
    """For each prompt the pairs that were judged."""
    judging_failed: str | None = None
    """Why the judge gave no verdicts; the answers are there."""

    @property
    def scores(self) -> list[Score]:
        """Wins, ties and losses of each model; pairs without a verdict do not count."""
        wins: Counter[int] = Counter()
        ties: Counter[int] = Counter()
        losses: Counter[int] = Counter()
        for pair in self._read_pairs():
            a, b = pair.models
            if pair.winner is None:
                ties.update(pair.models)
            else:
                wins[pair.winner] += 1
                losses[a + b - pair.winner] += 1
        return [Score(name, wins[i], ties[i], losses[i]) for i, name in enumerate(self.models)]

    @property
    def without_verdict(self) -> int:
        """Pairs of which the judge said nothing that can be read, in one order at least."""
        return sum(not pair.is_read for pairs in self.pairs for pair in pairs)

    @property
    def depending_on_order(self) -> int:
        """Pairs whose verdict depends on the order: they count as ties."""
        return sum(pair.depends_on_order for pairs in self.pairs for pair in pairs)

    def _read_pairs(self) -> Iterable[Pair]:
        return (pair for pairs in self.pairs for pair in pairs if pair.is_read)

    def _headline(self) -> str:
        judged = f", judged by {self.judged_by}" if self.judged_by else ""
        return f"{' / '.join(self.models)}: {count(len(self.prompts), 'prompt')}{judged}"

    def _rows(self) -> Iterable[tuple[str, object]]:
        rows: list[tuple[str, object]] = [("prompts", len(self.prompts))]
        return rows + [(s.model, f"{s.wins} won, {s.ties} tied, {s.losses} lost") for s in self.scores]

    def to_json(self) -> dict[str, Any]:
        """All that was found, as JSON has it; `blind_order` is the key of a blind page."""
        entries = []
        for at, prompt in enumerate(self.prompts):
            entry: dict[str, Any] = {"instruction": prompt.instruction, "input": prompt.input}
            if prompt.reference:
                entry["reference"] = prompt.reference
            entry["answers"] = dict(zip(self.models, self.answers[at], strict=True))
            entry["blind_order"] = [self.models[i] for i in self.orders[at]]
            if self.pairs:
                entry["pairs"] = [self._pair(pair) for pair in self.pairs[at]]
            entries.append(entry)
        facts: dict[str, Any] = {
            "models": self.fingerprints,
            "sampling": vars(self.sampling),
            "prompts": entries,
        }
        if self.judged_by is not None:
            facts["judge"] = self.judged_by
            facts["scores"] = [vars(score) for score in self.scores]
            facts["depending_on_order"] = self.depending_on_order
            facts["without_verdict"] = self.without_verdict
        return stamped("comparison", facts)

    def _pair(self, pair: Pair) -> dict[str, Any]:
        names = [self.models[i] for i in pair.models]
        won = None if pair.winner is None else self.models[pair.winner]
        said = [
            {"first": self.models[verdict.first], "text": verdict.text} for verdict in pair.verdicts or ()
        ]
        return {"models": names, "winner": won, "verdicts": said}

    def write_json(self, path: PathLike, *, overwrite: bool = False) -> None:
        """Write `to_json`; raises `OutputExistsError` as every output does."""
        with new_file(path, kind="comparison", overwrite=overwrite) as made:
            write_json(made, self.to_json())

    def write_html(
        self,
        path: PathLike,
        *,
        blind: bool = False,
        key: PathLike | None = None,
        command: str | Sequence[str] | None = None,
        overwrite: bool = False,
    ) -> None:
        """Write one self-contained page, in English and Chinese.

        Args:
            blind: name no model: the answers of each prompt are A, B, ... in an order of its own.
            key: the JSON file with the models' names, which a blind page points to.
            command: what makes the page again.

        Raises `OutputExistsError` as every output does, `ModuleNotFoundError` without the extra `pages`.
        """
        from zhuzi.pages import render

        shown = []
        for at, prompt in enumerate(self.prompts):
            order = self.orders[at] if blind else range(len(self.models))
            letters = [chr(ord("A") + place) for place in range(len(self.models))]
            names = letters if blind else self.models
            answers = [(name, self.answers[at][i]) for name, i in zip(names, order, strict=True)]
            shown.append((prompt, answers, [] if blind else self._verdicts(at)))
        title = ("Answers side by side", "回答对照")
        page = render(
            "eval/compare.html.j2",
            title=title,
            lead=(
                f"{count(len(self.prompts), 'prompt')}, {count(len(self.models), 'model')}",
                f"{len(self.prompts):,} 个问题，{len(self.models):,} 个模型",
            ),
            command=None if blind else command,  # it names the models in their order
            fingerprints={} if blind else self.fingerprints,
            packages=["torch", "transformers"],
            next_commands=[
                (
                    ("Measure them on texts", "在文本上测量它们"),
                    "zhuzi eval bits --model MODEL --model OTHER --corpus zh.jsonl --html bits.html",
                ),
                (("Talk to one", "与其中一个对话"), "zhuzi chat --model MODEL"),
            ],
            blind=blind,
            key=None if key is None else Path(key).name,
            comparison=self,
            score_rows=[(score.model, score.wins, score.ties, score.losses) for score in self.scores],
            sampling=self.sampling,
            shown=shown,
        )
        with new_file(path, kind="page", overwrite=overwrite) as made:
            made.write_text(page, "utf-8")

    def _verdicts(self, at: int) -> list[tuple[str, str, str | None, bool, list[tuple[str, str]]]]:
        """For each pair of a prompt: both names, the winner's, whether it was read, and the judge's words."""
        pairs = self.pairs[at] if self.pairs else []
        return [
            (
                self.models[pair.models[0]],
                self.models[pair.models[1]],
                None if pair.winner is None else self.models[pair.winner],
                pair.is_read,
                [(self.models[verdict.first], verdict.text) for verdict in pair.verdicts or ()],
            )
            for pair in pairs
        ]


def compare_models(
    models: Sequence[PathLike],
    prompts: PathLike | Sequence[PromptToCompare],
    *,
    base: PathLike | None = None,
    sampling: Sampling | None = None,
    device: str | None = None,
    seed: int = 0,
    judged_by: Endpoint | None = None,
    parallel: int = 4,
    progress: Callable[[str, int, int], object] | None = None,
) -> Comparison:
    """Let models answer the same prompts, one model after the other, and have the answers judged on wish.

    Args:
        models: model folders and adapters.
        prompts: a file of Alpaca records (an output is shown as a reference), or of one prompt a line (.txt).
        base: the base of adapters; by default that which their records name.
        sampling: how answers are drawn; the published settings by default. Without a seed of its own, that of
            each prompt follows from `seed`.
        seed: decides the draws, and the order of a blind page.
        judged_by: a model that judges each pair of answers, in both orders.
        parallel: questions to the judge in flight at the same time.
        progress: called with what is done (a model's name, or "judge"), how much of it, and of how much.

    Raises:
        InputError, MismatchError: a model or the prompts cannot be used.
        EndpointError: the judge does not answer when it is asked once, before the work. If it fails later,
            the answers are returned, and `judging_failed` says why.
        ValueError: fewer than one model, or one given twice.
    """
    if not models:
        raise ValueError("no model to compare; name one or more")
    held = read_prompts(Path(os.fspath(prompts))) if isinstance(prompts, str | os.PathLike) else list(prompts)
    opened = open_models(models, base)
    if judged_by is not None:
        if len(opened) < 2:
            raise ValueError("a judge compares two answers; name two models or more")
        require_judge(judged_by)
    for model in opened:
        _require_room(model, held)
    sampling = sampling or Sampling()
    by_model = [_answers(model, held, sampling, device, seed, progress) for model in opened]
    answers = [list(given) for given in zip(*by_model, strict=True)]
    pairs: list[list[Pair]] = []
    failed = None
    if judged_by is not None:
        tell = (lambda done, total: progress("judge", done, total)) if progress is not None else None
        questions = [prompt.question for prompt in held]
        try:
            pairs = judge(judged_by, questions, answers, parallel=parallel, progress=tell)
        except EndpointError as error:  # hours of answers are not lost for it
            failed = str(error)
    return Comparison(
        models=[model.name for model in opened],
        prompts=held,
        answers=answers,
        orders=[_order(len(opened), f"{seed}/{at}") for at in range(len(held))],
        fingerprints={model.name: model.fingerprint for model in opened},
        sampling=sampling,
        judged_by=None if judged_by is None or failed else f"{judged_by.model} at {judged_by.address}",
        pairs=pairs,
        judging_failed=failed,
    )


def _require_room(model: ModelToCompare, prompts: Sequence[PromptToCompare]) -> None:
    """Raise `InputError` for the first prompt that leaves no room for an answer; nothing is loaded yet."""
    most = positions(model.folder.config)
    for at, prompt in enumerate(prompts, 1):
        ids = prompt_ids(model.folder.tokenizer, prompt.instruction, prompt.input)
        try:
            require_room(most, len(ids))
        except InputError as error:
            raise InputError(f"prompt {at}, for {model.name}: {error}") from None


def _answers(
    model: ModelToCompare,
    prompts: Sequence[PromptToCompare],
    sampling: Sampling,
    device: str | None,
    seed: int,
    progress: Callable[[str, int, int], object] | None,
) -> list[str]:
    """The answers of one model, which is in memory only meanwhile."""
    chat = model.load(device)
    answers = []
    for at, prompt in enumerate(prompts):
        drawn = sampling.seed if sampling.seed is not None else seed * 1_000_003 + at
        pieces = chat.reply(prompt.instruction, input=prompt.input, sampling=sampling, seed=drawn)
        answers.append("".join(pieces).strip())
        if progress is not None:
            progress(model.name, at + 1, len(prompts))
    return answers


def _order(models: int, seed: str) -> list[int]:
    draw = random.Random(seed)
    return sorted(range(models), key=lambda _: draw.random())


def read_prompts(path: Path) -> list[PromptToCompare]:
    """The prompts of a file: Alpaca records, or one a line in a `.txt`.

    Raises:
        InputError: none in it, or one that cannot be read (the message names file and place).
    """
    if path.suffix.lower() == ".txt":
        try:
            lines = path.read_bytes().decode("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path}: not UTF-8 at byte {error.start:,}; convert it to UTF-8 first"
            ) from None
        except FileNotFoundError:
            raise InputError(f"{path}: no such file; name a file of prompts") from None
        prompts = [PromptToCompare(line.strip()) for line in lines if line.strip()]
    else:
        from zhuzi.train.alpaca import check
        from zhuzi.train.sources import open_records

        prompts = []
        for record, place in open_records(path):
            if isinstance(record, dict) and "output" not in record:
                record = {**record, "output": ""}
            record = check(record, place)
            given = record.get("input") or ""
            prompts.append(PromptToCompare(record["instruction"], given, record["output"].strip()))
    if not prompts:
        raise InputError(f"{path}: holds no prompt; write Alpaca records, or one prompt a line (.txt)")
    return prompts
