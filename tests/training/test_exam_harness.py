"""`zhuzi eval ceval` and `cmmlu` beside lm-evaluation-harness: the same choices, the same likelihoods.

It is slow and not among the packages that `make setup` installs (270 MB with what it needs):

    pip install lm_eval && pytest -m slow tests/training/test_exam_harness.py

`ZHUZI_EXAM_MODEL=DIR` compares on a model folder of yours too, five shot, on the questions of one subject.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from zhuzi import Tokenizer
from zhuzi.eval import evaluate_exam
from zhuzi.eval.exam import ExamResult
from zhuzi.eval.exam_files import Exam, ExamName, Question, Subject, read_exam
from zhuzi.hf import ZhuziTokenizer
from zhuzi.model.extend import extend_model
from zhuzi.vocab import extend_vocab

pytestmark = pytest.mark.slow

lm_eval = pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed: pip install lm_eval")

#: The subjects of CMMLU as which questions of C-Eval are answered: CMMLU's own are not among the data.
AS_CMMLU = {"law": "college_law", "logic": "logical", "art_studies": "arts"}
#: Subjects of many lengths and scripts: formulas, English terms.
FIVE_SHOT = ["law", "college_programming", "high_school_chemistry"]
#: Subjects of the model with 512 positions: as many as a test has time for.
ZERO_SHOT = 12


@pytest.fixture(scope="session")
def questions(reference: Path) -> Path:
    return reference / "eval" / "ceval-exam.zip"


@pytest.fixture(scope="session")
def real(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real model of 260,000 parameters that was trained on stories, 512 positions, and its 512 pieces."""
    folder = tmp_path_factory.mktemp("stories260K") / "model"
    script = Path(__file__).parents[2] / "recipes" / "tiny-zh" / "from_llama2c.py"
    files = [reference / "weights" / name for name in ("stories260K.bin", "tok512.bin")]
    subprocess.run([sys.executable, str(script), *map(str, files), str(folder)], check=True)
    return folder


@pytest.fixture(scope="session")
def long(real: Path, questions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real model extended by Chinese pieces, which make five examples short enough; 4,096 positions."""
    folder = tmp_path_factory.mktemp("long")
    text = folder / "text.txt"
    exam = read_exam("ceval", questions)
    held = [q for subject in exam.subjects for q in (*subject.examples, *subject.questions)]
    text.write_text("\n".join(q.text + " ".join(q.choices) for q in held), "utf-8")
    tokenizer = extend_vocab(text, real, folder / "tokenizer", new_pieces=3000, characters="none").folder
    extend_model(real, tokenizer, folder / "model")
    config = json.loads((folder / "model" / "config.json").read_text())
    config["max_position_embeddings"] = 4096
    (folder / "model" / "config.json").write_text(json.dumps(config))
    return folder / "model"


def write_subjects(folder: Path, name: ExamName, exam: Exam) -> Path:
    """Subjects as CSV files in the layout of a benchmark."""
    columns = {"ceval": ("id", "question", "answer"), "cmmlu": ("", "Question", "Answer")}[name]

    def write(split: str, subject: Subject, questions: Iterable[Question]) -> None:
        file = f"{subject.name}_{split}.csv" if name == "ceval" else f"{subject.name}.csv"
        path = folder / split / file
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", newline="") as out:
            table = csv.writer(out)
            table.writerow([columns[0], columns[1], *"ABCD", columns[2]])
            table.writerows([q.id, q.text, *q.choices, q.answer] for q in questions)

    for subject in exam.subjects:
        write("dev", subject, subject.examples)
        write("val" if name == "ceval" else "test", subject, subject.questions)
    return folder


def harness_tasks(name: ExamName, exam: Exam, shots: int, folder: Path) -> list[dict[str, Any]]:
    """The harness's own tasks, reading these questions instead of the hub's."""
    import yaml

    tasks = Path(lm_eval.__file__).parent / "tasks" / name
    default = "_default_ceval_yaml" if name == "ceval" else "_default_template_yaml"
    prefix, split = ("ceval-valid", "val") if name == "ceval" else ("cmmlu", "test")
    question, answer = ("question", "answer") if name == "ceval" else ("Question", "Answer")
    made = []
    for subject in exam.subjects:
        own = next(
            held
            for path in sorted(tasks.glob("*.yaml"))
            if (held := yaml.safe_load(path.read_text("utf-8"))).get("task") == f"{prefix}_{subject.name}"
        )
        files = {}
        for part, held in (("dev", subject.examples), (split, subject.questions)):
            path = folder / f"{subject.name}-{part}.jsonl"
            rows = [
                {question: q.text, **dict(zip("ABCD", q.choices, strict=True)), answer: q.answer}
                for q in held
            ]
            path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
            files[part] = str(path)
        config = {**yaml.safe_load((tasks / default).read_text("utf-8")), **own}
        for key in ("include", "dataset_name"):
            config.pop(key, None)
        config |= {"dataset_path": "json", "dataset_kwargs": {"data_files": files}, "num_fewshot": shots}
        made.append(config)
    return made


def require_agreement(
    name: ExamName, model: Path, result: ExamResult, exam: Exam, shots: int, folder: Path
) -> None:
    """Every choice, every log-likelihood and every accuracy is the harness's."""
    from lm_eval.models.huggingface import HFLM

    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    tokenizer = ZhuziTokenizer.from_pretrained(model)
    harness = HFLM(pretrained=loaded, tokenizer=tokenizer, batch_size=2, device="cpu", add_bos_token=True)
    found = lm_eval.simple_evaluate(
        model=harness,
        tasks=harness_tasks(name, exam, shots, folder),
        num_fewshot=shots,
        bootstrap_iters=0,
        log_samples=True,
    )
    prefix = "ceval-valid" if name == "ceval" else "cmmlu"
    questions = differ = 0
    largest = 0.0
    for subject in result.subjects:
        task = f"{prefix}_{subject.name}"
        samples = sorted(found["samples"][task], key=lambda sample: sample["doc_id"])
        for answer, sample in zip(subject.answers, samples, strict=True):
            theirs = [value for value, _ in sample["filtered_resps"]]
            assert answer.log_likelihoods is not None
            largest = max(largest, *(abs(a - b) for a, b in zip(answer.log_likelihoods, theirs, strict=True)))
            differ += answer.chosen != "ABCD"[theirs.index(max(theirs))]
            questions += 1
        for metric in ("acc,none", "acc_norm,none"):
            assert found["results"][task][metric] == pytest.approx(subject.accuracy)
    sys.stderr.write(
        f"\n{name}, {model.name}, {shots} shots: {questions} questions of {len(result.subjects)} subjects, "
        f"{result.cut} cut, {differ} choices differ, largest difference of log-likelihoods {largest:.1e}\n"
    )
    assert not differ and largest < 1e-4


def chosen(exam: Exam, names: Sequence[str]) -> Exam:
    return Exam(exam.name, exam.split, tuple(s for s in exam.subjects if s.name in names))


def test_the_real_model_reads_stories(real: Path) -> None:
    """It is the model that was trained, not just weights of its shapes: a story is no surprise."""
    tokenizer = Tokenizer.from_dir(real)
    story = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park."
    ids = tokenizer.encode(story, add_bos=True)
    assert len(ids) < 40
    model = AutoModelForCausalLM.from_pretrained(real)
    with torch.no_grad():
        assert float(model(torch.tensor([ids]), labels=torch.tensor([ids])).loss) < 1.5


def test_ceval_zero_shot_on_the_real_model(real: Path, questions: Path, tmp_path: Path) -> None:
    """Its pieces spell Chinese in bytes: of the subjects, those of which most prompts are short enough."""
    exam, tokenizer = read_exam("ceval", questions), Tokenizer.from_dir(real)

    def is_long(question: Question) -> bool:
        text = question.text + "".join(question.choices)
        return len(tokenizer.encode(text)) > 512 - len(tokenizer.encode("A. B. C. D. \n答案：")) - 90

    fitting = [s.name for s in exam.subjects if sum(map(is_long, s.questions)) < len(s.questions) / 2]
    assert len(fitting) > ZERO_SHOT
    result = evaluate_exam("ceval", real, questions, subjects=fitting[:ZERO_SHOT])
    require_agreement("ceval", real, result, chosen(exam, fitting[:ZERO_SHOT]), 0, tmp_path)


def test_ceval_five_shot(long: Path, questions: Path, tmp_path: Path) -> None:
    exam = read_exam("ceval", questions)
    result = evaluate_exam("ceval", long, questions, shots=5, subjects=FIVE_SHOT)
    require_agreement("ceval", long, result, chosen(exam, FIVE_SHOT), 5, tmp_path)


@pytest.mark.parametrize("shots", [0, 5])
def test_cmmlu(shots: int, long: Path, questions: Path, tmp_path: Path) -> None:
    """C-Eval's questions, in CMMLU's files, under the names of its subjects."""
    held = chosen(read_exam("ceval", questions), list(AS_CMMLU))
    renamed = [Subject(AS_CMMLU[s.name], "", (), s.examples, s.questions) for s in held.subjects]
    data = write_subjects(tmp_path / "cmmlu", "cmmlu", Exam("cmmlu", "test", tuple(renamed)))
    result = evaluate_exam("cmmlu", long, data, shots=shots)
    assert {s.name for s in result.subjects} == set(AS_CMMLU.values())
    require_agreement("cmmlu", long, result, read_exam("cmmlu", data), shots, tmp_path)


@pytest.mark.skipif("ZHUZI_EXAM_MODEL" not in os.environ, reason="ZHUZI_EXAM_MODEL names no model folder")
def test_five_shot_on_a_model_of_yours(questions: Path, tmp_path: Path) -> None:
    model = Path(os.environ["ZHUZI_EXAM_MODEL"])
    exam = read_exam("ceval", questions)
    result = evaluate_exam("ceval", model, questions, shots=5, subjects=FIVE_SHOT[:1])
    require_agreement("ceval", model, result, chosen(exam, FIVE_SHOT[:1]), 5, tmp_path)
