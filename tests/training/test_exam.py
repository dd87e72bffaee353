"""C-Eval and CMMLU: files, prompts, likelihoods, extraction, resuming."""

from __future__ import annotations

import csv
import io
import json
import shutil
import zipfile
from pathlib import Path

import pytest
import torch

from zhuzi import Chat
from zhuzi.errors import InputError, OutputExistsError
from zhuzi.eval import evaluate_exam
from zhuzi.eval.exam import extract_choice
from zhuzi.eval.exam_files import read_exam
from zhuzi.eval.likelihood import log_likelihoods
from zhuzi.eval.partial import PartialResults
from zhuzi.infer.chat import prompt_ids

HEAD = ["id", "question", "A", "B", "C", "D", "answer"]
ROWS = [["0", " 天？ ", "天", "地", "你好", "世界", "A"], ["1", "机器？", "1", "2", "3", "4", "C"]]


def table(rows: list[list[str]], head: list[str] = HEAD) -> str:
    text = io.StringIO()
    csv.writer(text).writerows([head, *rows])
    return text.getvalue()


@pytest.fixture
def ceval(tmp_path: Path) -> Path:
    """Two subjects as C-Eval has them."""
    path = tmp_path / "ceval.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for subject in ("law", "logic"):
            archive.writestr(f"val/{subject}_val.csv", table(ROWS))
            archive.writestr(f"dev/{subject}_dev.csv", table([*ROWS] * 3))
            archive.writestr(f"test/{subject}_test.csv", table([r[:6] for r in ROWS], HEAD[:6]))
    return path


def test_choices_are_those_of_plain_likelihoods(model: Path, ceval: Path) -> None:
    result = evaluate_exam("ceval", model, ceval, shots=1, batch=3)
    chat = Chat.from_dir(model)
    head = (
        "以下是中国关于法学的单项选择题，请选出其中的正确答案。\n\n"
        "天？\nA. 天\nB. 地\nC. 你好\nD. 世界\n答案： A\n\n"
    )
    prompt = head + "机器？\nA. 1\nB. 2\nC. 3\nD. 4\n答案："
    answer = result.subjects[0].answers[1]
    for letter, found in zip("ABCD", answer.log_likelihoods or (), strict=True):
        before, ids = chat.tokenizer.encode(prompt), chat.tokenizer.encode(f"{prompt} {letter}")
        with torch.no_grad():
            scores = chat.model(torch.tensor([[1, *ids]])).logits[0].log_softmax(-1)
        plain = sum(float(scores[i, ids[i]]) for i in range(len(before), len(ids)))
        assert found == pytest.approx(plain, abs=1e-4)
    assert answer.answer == "C" and result.questions == 4 and result.shots == 1
    assert result.categories.keys() == {"Humanities"}
    assert result.average == pytest.approx(sum(s.accuracy for s in result.subjects) / 2)


def test_batches_change_nothing_and_long_contexts_lose_their_beginning(model: Path) -> None:
    chat = Chat.from_dir(model)
    requests = [([1, *range(5, 5 + n)], [[7], [8, 9], [10, 11, 12]]) for n in (40, 3, 17)]
    one = log_likelihoods(chat.model, requests, batch=1)
    for row, other in zip(one, log_likelihoods(chat.model, requests, batch=7), strict=True):
        assert row == pytest.approx(other, abs=1e-5)
    with torch.no_grad():
        scores = chat.model(torch.tensor([[*range(36, 45), 8]])).logits[0].log_softmax(-1)
    cut = log_likelihoods(chat.model, requests, context=10)
    assert cut[0][1] == pytest.approx(float(scores[-2, 8] + scores[-1, 9]), abs=1e-4)
    assert cut[1] == pytest.approx(one[1], abs=1e-4)


def test_generation_extracts_answers_and_writes_a_submission(
    model: Path, ceval: Path, tmp_path: Path
) -> None:
    result = evaluate_exam("ceval", model, ceval, by="generation", split="test", subjects=["logic"], seed=3)
    assert result.accuracy is None and [s.name for s in result.subjects] == ["logic"]
    again = evaluate_exam("ceval", model, ceval, by="generation", split="test", subjects=["logic"], seed=3)
    assert again == result
    result.write_submission(tmp_path / "s.json")
    held = json.loads((tmp_path / "s.json").read_text())
    assert held.keys() == {"logic"} and held["logic"].keys() == {"0", "1"}
    assert set(held["logic"].values()) <= set("ABCD")


def test_generation_asks_in_the_template_of_the_model(
    model: Path, ceval: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[int]] = []

    def generate(model: object, ids: list[int], **options: object) -> list[int]:
        asked.append(ids)
        return []

    monkeypatch.setattr("zhuzi.eval.exam.generate", generate)
    question = " 天？ \nA. 天\nB. 地\nC. 你好\nD. 世界\n答案是什么？ "
    tokenizer = Chat.from_dir(model).tokenizer
    evaluate_exam("ceval", model, ceval, by="generation", subjects=["law"])
    assert asked[0] == prompt_ids(tokenizer, question)
    other = shutil.copytree(model, tmp_path / "other")
    answer = "{% if messages[1] %}{{ messages[1].content + eos_token }}{% endif %}"
    (other / "chat_template.jinja").write_text("{{ bos_token }}{{ messages[0].content }}" + answer, "utf-8")
    (other / "zhuzi.json").unlink()
    asked.clear()
    evaluate_exam("ceval", other, ceval, by="generation", subjects=["law"])
    assert asked[0] == [1, *tokenizer.encode(question)]


@pytest.mark.parametrize(
    ("written", "choice"),
    [
        ("所以答案是B。", "B"),
        ("C是正确的，A不对", "C"),
        ("正确答案为D", "D"),
        ("A和B中，选项B正确", "B"),
        ("应该选 C", "C"),
        ("地球", "B"),
        ("不知道", None),
        ("", None),
    ],
)
def test_published_rules_find_the_choice(written: str, choice: str | None) -> None:
    assert extract_choice(written, ("天空", "地球", "3 (x)", "")) == choice


def test_an_ended_run_resumes(
    model: Path, ceval: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "exam.json"
    whole = evaluate_exam("ceval", model, ceval)

    def stop(title: str, done: int, total: int) -> None:
        if done > 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_exam("ceval", model, ceval, out=out, progress=stop)
    assert not out.exists()
    with (tmp_path / "exam.json.partial").open("a") as file:
        file.write('{"key": "log')  # cut off while it was written
    seen = []
    resumed = evaluate_exam("ceval", model, ceval, out=out, progress=lambda *told: seen.append(told[1]))
    assert resumed == whole and min(seen) > 2
    assert json.loads(out.read_text())["acc"] == whole.accuracy
    assert {path.name for path in tmp_path.glob("exam*")} == {"exam.json", "exam.json.zhuzi.json"}
    (tmp_path / "mine.json.partial").write_text("mine")
    with pytest.raises(OutputExistsError, match=r"mine\.json\.partial"):
        evaluate_exam("ceval", model, ceval, out=tmp_path / "mine.json")


def test_cmmlu_is_read_as_it_is_published(tmp_path: Path) -> None:
    head = ["", "Question", "A", "B", "C", "D", "Answer"]
    for split in ("dev", "test"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "agronomy.csv").write_text("\ufeff" + table(ROWS, head), "utf-8")
    exam = read_exam("cmmlu", tmp_path)
    assert exam.split == "test" and exam.subjects[0].title == "农学"
    assert exam.subjects[0].questions[1].choices == ("1", "2", "3", "4")
    assert [q.id for q in exam.subjects[0].examples] == ["0", "1"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (table([[*r[:6], "5", "A"] for r in ROWS], [*HEAD[:6], "E", "answer"]), "a choice 'E' beside A to D"),
        (table(ROWS, ["id", "frage", *HEAD[2:]]), "no column 'question'"),
        (table([ROWS[0], ROWS[1][:4]]), "record 3 has 4 columns, not 7"),
        (table([[*ROWS[0][:6], "AB"]]), "record 2: the answer is 'AB'"),
        ("", "no column 'question'"),
        (table([]), "holds no questions"),
        (table(ROWS).encode("gb18030"), "line 2: not UTF-8"),
    ],
)
def test_other_files_are_refused_by_place(tmp_path: Path, text: str | bytes, why: str) -> None:
    (tmp_path / "val").mkdir()
    raw = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "val" / "law_val.csv").write_bytes(raw)
    with pytest.raises(InputError, match=why) as refused:
        read_exam("ceval", tmp_path)
    assert "val/law_val.csv" in str(refused.value)


def test_a_zip_with_a_damaged_member_is_refused_by_place(ceval: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "exam.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("val/law_val.csv", table(ROWS * 20))
    raw = bytearray((tmp_path / "exam.zip").read_bytes())
    raw[60:120] = b"\xff" * 60
    (tmp_path / "exam.zip").write_bytes(raw)
    with pytest.raises(InputError, match=r"val/law_val\.csv: cannot be read"):
        read_exam("ceval", tmp_path / "exam.zip")


@pytest.mark.parametrize("left", [b"", b'{"zhuzi": "par', b'{"zhuzi": "partial results", "facts": {"x'])
def test_a_first_line_that_was_cut_off_is_begun_anew(tmp_path: Path, left: bytes) -> None:
    (tmp_path / "f.partial").write_bytes(left)
    partial = PartialResults(tmp_path / "f", {"x": 1})
    partial.put("a", 2)
    assert PartialResults(tmp_path / "f", {"x": 1}).get("a") == 2


def test_what_cannot_be_measured_is_refused(model: Path, ceval: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no questions of CMMLU.*cmmlu_v1_0_1\.zip"):
        evaluate_exam("cmmlu", model, ceval)
    with pytest.raises(InputError, match=r"no such file or folder; fetch ceval-exam\.zip of"):
        evaluate_exam("ceval", model, tmp_path / "missing.zip")
    (tmp_path / "no.zip").write_bytes(b"PK no")
    with pytest.raises(InputError, match="neither a folder nor a zip"):
        evaluate_exam("ceval", model, tmp_path / "no.zip")
    with pytest.raises(InputError, match="'physics': not in these files; there are law, logic"):
        evaluate_exam("ceval", model, ceval, subjects=["physics"])
    with pytest.raises(ValueError, match="shots: want 0 to 5"):
        evaluate_exam("ceval", model, ceval, shots=6)
    config = json.loads((model / "config.json").read_text())
    short = tmp_path / "short"
    short.mkdir()
    for path in model.iterdir():
        (short / path.name).symlink_to(path)
    (short / "config.json").unlink()
    (short / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 64}))
    with pytest.raises(InputError, match="has 64 positions, and 4 of 4 prompts are longer"):
        evaluate_exam("ceval", short, ceval, shots=5)


def test_every_subject_of_ceval_loads(reference: Path) -> None:
    exam = read_exam("ceval", reference / "eval" / "ceval-exam.zip")
    assert len(exam.subjects) == 52 and sum(len(s.questions) for s in exam.subjects) == 1346
    assert sum(len(s.examples) for s in exam.subjects) == 260
    test = read_exam("ceval", reference / "eval" / "ceval-exam.zip", "test")
    assert sum(len(s.questions) for s in test.subjects) == 12342
    assert all(q.answer is None for s in test.subjects for q in s.questions)
