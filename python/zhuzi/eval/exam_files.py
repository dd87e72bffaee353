"""The questions of C-Eval and CMMLU, from the files that the benchmarks come in.

C-Eval (Huang et al. 2023, arXiv 2305.08322): `dev/`, `val/` and `test/` with a CSV per subject, named
`SUBJECT_dev.csv`; the answers of `test` are not public. CMMLU (Li et al. 2023, arXiv 2306.09212): `dev/` and
`test/` with `SUBJECT.csv`.
"""

from __future__ import annotations

import csv
import io
import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Literal

from zhuzi.errors import InputError
from zhuzi.record.place import PathLike

ExamName = Literal["ceval", "cmmlu"]
CHOICES = ("A", "B", "C", "D")

#: Where a benchmark is scored, of those with public answers.
SPLITS: Mapping[str, str] = {"ceval": "val", "cmmlu": "test"}
_TITLES = {"ceval": "C-Eval", "cmmlu": "CMMLU"}
_SOURCES = {
    "ceval": "ceval-exam.zip of the dataset ceval/ceval-exam on the Hugging Face hub",
    "cmmlu": "cmmlu_v1_0_1.zip of the dataset haonan-li/cmmlu on the Hugging Face hub",
}
# A file of questions has some hundred kilobytes.
_MOST_BYTES = 16 << 20


@dataclass(frozen=True)
class Question:
    """A question with four choices."""

    id: str
    text: str
    choices: tuple[str, str, str, str]
    answer: str | None
    """A to D; none where the answers are not public."""


@dataclass(frozen=True)
class Subject:
    """The questions of a subject, and those with answers that may be shown before them."""

    name: str
    title: str
    """In Chinese, as prompts name it."""
    categories: tuple[str, ...]
    examples: tuple[Question, ...]
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class Exam:
    """A benchmark of questions with four choices."""

    name: ExamName
    split: str
    subjects: tuple[Subject, ...]

    @property
    def title(self) -> str:
        """The benchmark's name as it is written."""
        return _TITLES[self.name]


def read_exam(name: ExamName, data: PathLike, split: str | None = None) -> Exam:
    """Read a benchmark from its zip file, or the folder with its files.

    Args:
        split: `val` (C-Eval's default), `test` (CMMLU's) or `dev`. C-Eval's `test` has no answers: it is for
            submissions.

    Raises:
        InputError: no such benchmark there, or a file that is not as the benchmark has it.
    """
    place = Path(data)
    if not place.exists():
        raise InputError(f"{place}: no such file or folder; fetch {_SOURCES[name]}")
    split = split or SPLITS[name]
    known: Mapping[str, list[str]] = json.loads((files("zhuzi.eval") / "subjects.json").read_text("utf-8"))[
        name
    ]
    with _files(place) as held:
        found = {s: path for s in known if (path := _find(held, name, split, s)) is not None}
        if not found:
            raise InputError(
                f"{place}: holds no questions of {_TITLES[name]} "
                f"(no {split}/{_file(name, split, 'SUBJECT')}); give {_SOURCES[name]}, or the folder that "
                "it unpacks to"
            )
        subjects = []
        for subject, path in found.items():
            questions = tuple(_read(held, path, place))
            if not questions:
                raise InputError(f"{place}: {path}: holds no questions; fetch it again, or remove the file")
            examples_path = _find(held, name, "dev", subject)
            examples = () if examples_path is None else tuple(_read(held, examples_path, place))
            title, *categories = known[subject]
            subjects.append(Subject(subject, title, tuple(categories), examples, questions))
    return Exam(name, split, tuple(subjects))


# Path inside the benchmark -> where its bytes are.
_Held = Mapping[PurePosixPath, Path | tuple[zipfile.ZipFile, zipfile.ZipInfo]]


@contextmanager
def _files(place: Path) -> Iterator[_Held]:
    """The CSV files of a folder or zip, by their path inside it."""
    if place.is_dir():
        yield {PurePosixPath(p.relative_to(place).as_posix()): p for p in sorted(place.rglob("*.csv"))}
        return
    try:
        with zipfile.ZipFile(place) as archive:
            yield {
                PurePosixPath(info.filename): (archive, info)
                for info in archive.infolist()
                if info.filename.endswith(".csv")
            }
    except zipfile.BadZipFile as error:
        raise InputError(f"{place}: neither a folder nor a zip file ({error}); fetch it again") from error


def _file(name: ExamName, split: str, subject: str) -> str:
    return f"{subject}_{split}.csv" if name == "ceval" else f"{subject}.csv"


def _find(held: _Held, name: ExamName, split: str, subject: str) -> PurePosixPath | None:
    """The file of a subject; it may be deeper than at the top."""
    wanted = (split, _file(name, split, subject))
    return min((path for path in held if path.parts[-2:] == wanted), key=lambda p: len(p.parts), default=None)


def _read(held: _Held, path: PurePosixPath, place: Path) -> Iterator[Question]:
    source = held[path]
    where = f"{place}: {path}"
    size = source.stat().st_size if isinstance(source, Path) else source[1].file_size
    if size > _MOST_BYTES:
        raise InputError(f"{where}: {size:,} bytes, more than any file of questions; fetch it again")
    try:
        raw = source.read_bytes() if isinstance(source, Path) else source[0].read(source[1])
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{where}, line {line}: not UTF-8, as the benchmark's files are; save it as UTF-8"
        ) from error
    except (RuntimeError, NotImplementedError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise InputError(f"{where}: cannot be read ({error}); fetch it again") from error
    try:
        rows = list(csv.reader(io.StringIO(text)))
    except csv.Error as error:
        raise InputError(f"{where}: not CSV ({error}); fetch it again") from error
    head = [name.strip().lower() for name in rows[0]] if rows else []
    # CMMLU leaves the name of the first column empty.
    column = {name or "id": i for i, name in reversed(list(enumerate(head)))}
    missing = [name for name in ("question", "a", "b", "c", "d") if name not in column]
    more = [name.upper() for name in head if len(name) == 1 and name not in "abcd"]
    if missing or more:
        what = f"no column {missing[0]!r}" if missing else f"a choice {more[0]!r} beside A to D"
        raise InputError(f"{where}: {what}; questions have the columns question, A, B, C, D and answer")
    for number, row in enumerate(rows[1:], 2):
        if not row:
            continue
        if len(row) != len(head):
            raise InputError(f"{where}: record {number} has {len(row)} columns, not {len(head)}; mend it")
        answer = row[column["answer"]].strip() if "answer" in column else None
        if answer is not None and answer not in CHOICES:
            raise InputError(
                f"{where}: record {number}: the answer is {answer!r}; want A, B, C or D: mend or remove it"
            )
        a, b, c, d = (row[column[choice.lower()]] for choice in CHOICES)
        id = row[column["id"]] if "id" in column else str(number - 2)
        yield Question(id, row[column["question"]], (a, b, c, d), answer)
