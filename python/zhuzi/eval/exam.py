"""C-Eval and CMMLU: questions with four choices, answered by likelihood or by generation.

By likelihood as lm-evaluation-harness does (tasks `ceval-valid` and `cmmlu`): the choice whose letter the
model holds most likely after `答案：`. By generation as the Chinese-LLaMA-Alpaca project documents for its
C-Eval figures: asked in the template of the model, which is the published one unless the model was tuned with
another, and an answer that is extracted from what the model writes.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from zhuzi._show import Report, count
from zhuzi.errors import InputError, naming
from zhuzi.eval.exam_files import CHOICES, Exam, ExamName, Question, Subject, read_exam
from zhuzi.eval.likelihood import log_likelihoods
from zhuzi.eval.models import ModelToCompare, open_models, scaling
from zhuzi.eval.partial import PartialResults
from zhuzi.infer.generate import generate
from zhuzi.infer.template import Message
from zhuzi.infer.templates import describe
from zhuzi.model.positions import positions
from zhuzi.record.json_file import write_json
from zhuzi.record.output import new_file
from zhuzi.record.place import PathLike, require_free_file
from zhuzi.record.provenance import stamped

if TYPE_CHECKING:
    from zhuzi.infer.chat import Chat

By = Literal["likelihood", "generation"]

#: What a prompt with examples begins with in lm-evaluation-harness.
_INTRODUCTIONS = {
    "ceval": "以下是中国关于{}的单项选择题，请选出其中的正确答案。\n\n",
    "cmmlu": "以下是关于{}的单项选择题，请直接给出正确答案的选项。\n\n",
}
#: And in Chinese-LLaMA-Alpaca's evaluation, with examples only.
_PUBLISHED_INTRODUCTION = "以下是中国关于{}考试的单项选择题，请选出其中的正确答案。\n\n"
_ANSWER_TOKENS = 20  # of a generated answer, as published
#: The published rules, in their order; after them, the first choice that is written out.
_PATTERNS = [
    *("([ABCD])是正确的", "选项([ABCD])正确", "答案为([ABCD])", "答案是([ABCD])", "答案([ABCD])"),
    *("选择([ABCD])", "答案：([ABCD])", "选择答案([ABCD])", "([ABCD])"),
]


@dataclass(frozen=True)
class Answered:
    """A question and what the model chose."""

    id: str
    chosen: str
    answer: str | None
    log_likelihoods: tuple[float, ...] | None = None
    """Of A to D; by generation none."""
    written: str | None = None
    """What the model wrote; by likelihood none."""
    extracted: bool = True
    """False if no rule found an answer in what was written: then one was drawn."""

    @property
    def right(self) -> bool:
        """Whether the choice is the answer."""
        return self.chosen == self.answer


@dataclass(frozen=True)
class SubjectResult:
    """The answers of a subject."""

    name: str
    title: str
    categories: tuple[str, ...]
    answers: tuple[Answered, ...]
    cut: int = 0
    """Prompts that were longer than the model's positions; their beginning was left out."""

    @property
    def right(self) -> int:
        """Right answers."""
        return sum(answer.right for answer in self.answers)

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.right / len(self.answers)


@dataclass(frozen=True, repr=False)
class ExamResult(Report):
    """How a model did in a benchmark."""

    exam: str
    model: str
    split: str
    shots: int
    by: str
    fingerprint: str
    subjects: tuple[SubjectResult, ...]

    @property
    def questions(self) -> int:
        """Questions in all."""
        return sum(len(subject.answers) for subject in self.subjects)

    @property
    def accuracy(self) -> float | None:
        """Share of right answers over all questions; none where the answers are not public."""
        if not self.has_answers:
            return None
        return sum(subject.right for subject in self.subjects) / self.questions

    @property
    def has_answers(self) -> bool:
        """Whether the answers are known."""
        return all(answer.answer is not None for s in self.subjects for answer in s.answers)

    @property
    def cut(self) -> int:
        """Prompts whose beginning was left out."""
        return sum(subject.cut for subject in self.subjects)

    @property
    def not_extracted(self) -> int:
        """Generated answers in which no rule found a choice."""
        return sum(not answer.extracted for s in self.subjects for answer in s.answers)

    @cached_property
    def categories(self) -> dict[str, float]:
        """Accuracy by category: the mean over its subjects, as the benchmarks report it."""
        names = dict.fromkeys(c for subject in self.subjects for c in subject.categories)
        return {
            name: _mean(s.accuracy for s in self.subjects if name in s.categories) for name in sorted(names)
        }

    @property
    def average(self) -> float:
        """The mean of the subjects' accuracies."""
        return _mean(subject.accuracy for subject in self.subjects)

    def _headline(self) -> str:
        found = "" if self.accuracy is None else f", {self.accuracy:.2%} right"
        return f"{self.exam}, {self.model}: {count(self.questions, 'question')}{found}"

    def _rows(self) -> Iterable[tuple[str, object]]:
        return [(s.name, f"{s.accuracy:.2%} of {len(s.answers)}") for s in self.subjects]

    def to_json(self) -> dict[str, Any]:
        """All that was found, as JSON has it. `acc_norm` is lm-evaluation-harness's: it divides by the length
        of a choice, which is one letter for all, so that it equals `acc`."""
        facts: dict[str, Any] = {
            key: getattr(self, key) for key in ("exam", "model", "split", "shots", "by", "fingerprint")
        }
        if self.accuracy is not None:
            facts |= {"acc": self.accuracy, "acc_norm": self.accuracy, "average": self.average}
            facts["categories"] = self.categories
        facts |= {"questions": self.questions, "cut": self.cut, "not_extracted": self.not_extracted}
        facts["subjects"] = [
            {**asdict(s), **({"acc": s.accuracy} if self.accuracy is not None else {})} for s in self.subjects
        ]
        return stamped("exam", facts)

    def write_json(self, path: PathLike, *, overwrite: bool = False) -> None:
        """Write `to_json`; raises `OutputExistsError` as every output does."""
        with new_file(path, kind="exam", overwrite=overwrite) as made:
            write_json(made, self.to_json())

    def write_submission(self, path: PathLike, *, overwrite: bool = False) -> None:
        """Write the choices as C-Eval takes them: subject, then question, then letter."""
        choices = {s.name: {answer.id: answer.chosen for answer in s.answers} for s in self.subjects}
        with new_file(path, kind="submission", overwrite=overwrite) as made:
            write_json(made, choices)


def evaluate_exam(
    name: ExamName,
    model: PathLike,
    data: PathLike,
    *,
    base: PathLike | None = None,
    split: str | None = None,
    shots: int = 0,
    by: By = "likelihood",
    subjects: Sequence[str] = (),
    batch: int = 8,
    seed: int = 0,
    device: str | None = None,
    out: PathLike | None = None,
    overwrite: bool = False,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> ExamResult:
    """Let a model answer C-Eval (`ceval`) or CMMLU (`cmmlu`).

    Args:
        model: a model folder, or an adapter (on `base`, or the base that its record names).
        data: the benchmark's zip file, or the folder that it unpacks to.
        split: `val` or `test`, by default the one that the benchmark is scored on.
        shots: examples before each question, from `dev` in the order of the file; 0 to 5.
        by: `likelihood` compares the letters' likelihoods; `generation` extracts the answer from text.
        subjects: names of those to answer; all by default.
        seed: draws the choice where no rule finds one in what was generated.
        out: a JSON file to write. Finished subjects are kept beside it until then: the same call resumes.

    Raises:
        InputError: files that are not the benchmark's, fewer examples than `shots`, or a model whose
            positions are too few for most of the prompts.
        MismatchError: an adapter that was made on another base.
        OutputExistsError: `out` may not be written.
    """
    if not 0 <= shots <= 5:
        raise ValueError(f"shots: want 0 to 5, not {shots}")
    if out is not None:
        require_free_file(out, overwrite=overwrite, inputs=[data])
    opened = open_models([model], base)[0]
    exam = _chosen(read_exam(name, data, split), subjects)
    if by == "likelihood":
        prompts = {subject.name: _prompts(exam, subject, shots) for subject in exam.subjects}
    else:
        prompts = {subject.name: _published_prompts(subject, shots) for subject in exam.subjects}
    most = positions(opened.folder.config)
    _require_room(opened, prompts, most, shots, by)
    facts = {"exam": name, "model": opened.fingerprint, "split": exam.split, "shots": shots, "by": by}
    if by == "generation":
        facts["template"] = describe(opened.template, opened.folder.tokenizer)
    asked = json.dumps([asdict(subject) for subject in exam.subjects], ensure_ascii=False)
    facts |= {"seed": seed, "questions": hashlib.sha256(asked.encode()).hexdigest()}
    facts |= scaling([opened])
    partial = PartialResults(out, facts)
    total = sum(len(subject.questions) for subject in exam.subjects)
    chat: Chat | None = None
    results, before = [], 0
    for subject in exam.subjects:
        held = partial.get(subject.name)
        if held is None:
            chat = chat or opened.load(device)

            def done(number: int, before: int = before) -> None:
                progress(exam.title, before + number, total)

            if by == "likelihood":
                held = _by_likelihood(chat, prompts[subject.name], most, batch, done)
            else:
                held = _by_generation(chat, subject, prompts[subject.name], most, seed, done)
            partial.put(subject.name, held)
        results.append(_result(subject, held))
        before += len(subject.questions)
    result = ExamResult(exam.title, opened.name, exam.split, shots, by, opened.fingerprint, tuple(results))
    if out is not None:
        result.write_json(out, overwrite=overwrite)
    partial.remove()
    return result


def _chosen(exam: Exam, subjects: Sequence[str]) -> Exam:
    names = [subject.name for subject in exam.subjects]
    for name in subjects:
        if name not in names:
            raise InputError(f"subject {name!r}: not in these files; there are {', '.join(names)}")
    kept = tuple(s for s in exam.subjects if not subjects or s.name in subjects)
    return Exam(exam.name, exam.split, kept)


def _examples(subject: Subject, shots: int) -> tuple[Question, ...]:
    if shots > len(subject.examples):
        raise naming(
            InputError,
            f"subject {subject.name}: {count(len(subject.examples), 'example')} in dev, not {shots}; give "
            "the whole benchmark, or ",
            ("shots", len(subject.examples)),
        )
    return subject.examples[:shots]


def _block(question: Question) -> str:
    lines = [f"{letter}. {choice}" for letter, choice in zip(CHOICES, question.choices, strict=True)]
    return "\n".join([question.text, *lines])


def _prompts(exam: Exam, subject: Subject, shots: int) -> list[str]:
    """A prompt for each question, as lm-evaluation-harness writes it."""
    shown = "".join(f"{_block(_stripped(q))}\n答案： {q.answer}\n\n" for q in _examples(subject, shots))
    head = _INTRODUCTIONS[exam.name].format(subject.title) + shown
    return [f"{head}{_block(_stripped(question))}\n答案：" for question in subject.questions]


def _stripped(question: Question) -> Question:
    return Question(question.id, question.text.strip(), question.choices, question.answer)


def _published_prompts(subject: Subject, shots: int) -> list[str]:
    """What each question asks, as in Chinese-LLaMA-Alpaca's evaluation of its tuned models."""
    shown = "".join(f"{_block(q)}\n答案：{q.answer}\n\n" for q in _examples(subject, shots))
    head = _PUBLISHED_INTRODUCTION.format(subject.title) + shown if shots else ""
    return [f"{head}{_block(question)}\n答案是什么？ " for question in subject.questions]


def _require_room(
    opened: ModelToCompare, prompts: dict[str, list[str]], most: int | None, shots: int, by: By
) -> None:
    """Refuse a model that would see but the end of most prompts."""
    if most is None:
        return
    room = most - (_ANSWER_TOKENS if by == "generation" else 1)
    tokenizer = opened.folder.tokenizer

    def length(prompt: str) -> int:
        if by == "generation":
            return len(opened.template.prompt(tokenizer, [Message("user", prompt)]))
        return len(tokenizer.encode(prompt)) + 1

    lengths = [length(prompt) for texts in prompts.values() for prompt in texts]
    long = sum(length > room for length in lengths)
    if long <= len(lengths) / 2:
        return
    fewer: list[str | tuple[str, int]] = ["take ", ("shots", 0), ", or "] if shots else ["take "]
    raise naming(
        InputError,
        f"{opened.path}: has {most:,} positions, and {long:,} of {len(lengths):,} prompts are longer (up to "
        f"{max(lengths):,} tokens); ",
        *fewer,
        "a model with a longer context",
    )


def _by_likelihood(
    chat: Chat, prompts: Sequence[str], most: int | None, batch: int, done: Callable[[int], None]
) -> dict[str, Any]:
    """The likelihoods of the letters after each prompt."""
    encode, bos = chat.tokenizer.encode, chat.tokenizer.bos_id
    front = [] if bos is None else [bos]
    requests = []
    for prompt in prompts:
        # What follows is what the whole text has after the prompt's ids, as the harness defines it.
        ids = encode(prompt)
        requests.append(([*front, *ids], [encode(f"{prompt} {letter}")[len(ids) :] for letter in CHOICES]))
    found = log_likelihoods(chat.model, requests, batch=batch, context=most, done=done)
    cut = sum(
        most is not None and len(before) + max(map(len, after)) - 1 > most for before, after in requests
    )
    return {"cut": cut, "log_likelihoods": found}


def _by_generation(
    chat: Chat,
    subject: Subject,
    prompts: Sequence[str],
    most: int | None,
    seed: int,
    done: Callable[[int], None],
) -> dict[str, Any]:
    """What the model writes after each prompt, greedily, and the choice that the rules find there."""
    tokenizer = chat.tokenizer
    room = None if most is None else most - _ANSWER_TOKENS
    cut, answers = 0, []
    for i, (question, prompt) in enumerate(zip(subject.questions, prompts, strict=True)):
        ids = chat.template.prompt(tokenizer, [Message("user", prompt)])
        if room is not None and len(ids) > room:
            cut += 1
            ids = [ids[0], *ids[len(ids) - (room - 1) :]]
        made = generate(
            chat.model,
            ids,
            eos_id=chat.template.end_id(tokenizer),
            limit=tokenizer.vocab_size,
            max_new_tokens=_ANSWER_TOKENS,
            repetition_penalty=1.1,
        )
        written = tokenizer.decode(list(made)).strip()
        choice = extract_choice(written, question.choices)
        drawn = random.Random(f"{seed} {subject.name} {question.id}").choice(CHOICES)
        answers.append([written, choice or drawn, choice is not None])
        done(i + 1)
    return {"cut": cut, "answers": answers}


def extract_choice(written: str, choices: Sequence[str]) -> str | None:
    """The choice that an answer names, by the published rules; none if no rule finds one."""
    concluded: list[str] = re.findall("所以答案是(.+?)。", written)
    if concluded and concluded[-1] in CHOICES:
        return concluded[-1]
    for pattern in _PATTERNS:
        if found := re.search(pattern, written):
            return found[1]
    letters = dict(zip(choices, CHOICES, strict=True))
    written_out = re.search("|".join(re.escape(choice) for choice in choices if choice), written)
    return letters[written_out[0]] if written_out and written_out[0] else None


def _result(subject: Subject, held: dict[str, Any]) -> SubjectResult:
    if "log_likelihoods" in held:
        answers = tuple(
            Answered(q.id, CHOICES[values.index(max(values))], q.answer, tuple(values))
            for q, values in zip(subject.questions, held["log_likelihoods"], strict=True)
        )
    else:
        answers = tuple(
            Answered(q.id, chosen, q.answer, written=written, extracted=extracted)
            for q, (written, chosen, extracted) in zip(subject.questions, held["answers"], strict=True)
        )
    return SubjectResult(subject.name, subject.title, subject.categories, answers, held["cut"])


def _mean(values: Iterable[float]) -> float:
    held = list(values)
    return sum(held) / len(held)
