"""Answers side by side: those of chat; a blind page names no model; a judge reads both orders."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel

from endpoint_server import Reply, completion, serving
from zhuzi import Chat, Endpoint, pretrain
from zhuzi.errors import EndpointError, InputError, MismatchError
from zhuzi.eval import compare_models
from zhuzi.eval.compare import PromptToCompare, read_prompts
from zhuzi.eval.judge import judge, judge_prompt, read_verdict
from zhuzi.eval.models import open_models
from zhuzi.infer import Sampling
from zhuzi.model.folder import ModelFolder

PROMPTS = [PromptToCompare("你好"), PromptToCompare("Say <b>it</b>.", "bread", "面包")]
GREEDY = Sampling(max_new_tokens=6, temperature=0)


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ZHUZI_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def adapter(model: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from zhuzi.train.recipe import PretrainRecipe

    recipe = PretrainRecipe.model_validate({
        "task": "pretrain", "model": str(model), "corpus": corpus,
        "output": tmp_path_factory.mktemp("runs") / "7b-sft",
        "lora": {"rank": 4, "targets": ["q_proj", "v_proj"]}, "base_bits": 16,
        "sequence_length": 16, "steps": 4, "batch_size": 4, "learning_rate": 3e-2,
    })  # fmt: skip
    return pretrain(recipe).result


@pytest.fixture(scope="module")
def other(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the same name with other weights."""
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(model, tmp_path_factory.mktemp("other") / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["lm_head.weight"].flip(0).contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_answers_are_those_of_chat(model: Path, adapter: Path, other: Path) -> None:
    told: list[tuple[str, int, int]] = []
    made = compare_models(
        [model, adapter, other], PROMPTS, sampling=GREEDY, progress=lambda *state: told.append(state)
    )
    base = ModelFolder.open(model)
    chats = [
        Chat.from_dir(model, device="cpu"),
        Chat(PeftModel.from_pretrained(Chat.from_dir(model, device="cpu").model, adapter), base.tokenizer),
        Chat.from_dir(other, device="cpu"),
    ]
    for at, prompt in enumerate(PROMPTS):
        for chat, answer in zip(chats, made.answers[at], strict=True):
            expected = "".join(chat.reply(prompt.instruction, input=prompt.input, sampling=GREEDY))
            assert answer == expected.strip()
    assert made.models == [
        f"{model.parent.name}/model",
        "7b-sft/adapter",
        f"{other.parent.name}/model",
    ]
    assert told[:2] == [(made.models[0], 1, 2), (made.models[0], 2, 2)]
    assert "2 prompts" in repr(made)


def test_draws_follow_from_the_seed(model: Path) -> None:
    def draw(seed: int) -> list[list[str]]:
        sampling = Sampling(max_new_tokens=8, temperature=5.0, top_p=1.0, top_k=0)
        return compare_models([model], [PROMPTS[0]] * 2, sampling=sampling, seed=seed).answers

    first = draw(1)
    assert first == draw(1) != draw(2)
    assert first[0] != first[1]


def test_the_page_and_the_file(model: Path, other: Path, tmp_path: Path) -> None:
    made = compare_models([model, other], PROMPTS, sampling=GREEDY)
    made.write_html(tmp_path / "a.html", command=["zhuzi", "eval"])
    page = (tmp_path / "a.html").read_text("utf-8")
    for text in (
        *made.models,
        "Say &lt;b&gt;it&lt;/b&gt;.",
        "面包",
        "zhuzi eval",
        "zhuzi eval bits --model MODEL",
        made.fingerprints[made.models[0]],
    ):
        assert text in page
    assert not re.search(r'(src|href)="', page)
    made.write_json(tmp_path / "a.json")
    held = json.loads((tmp_path / "a.json").read_bytes())
    assert held["prompts"][1]["answers"] == dict(zip(made.models, made.answers[1], strict=True))
    assert held["prompts"][1]["reference"] == "面包" and "reference" not in held["prompts"][0]
    assert held["models"] == made.fingerprints


def test_a_blind_page_names_no_model(model: Path, other: Path, tmp_path: Path) -> None:
    prompts = [PromptToCompare(f"第{n}问") for n in range(12)]
    made = compare_models([model, other], prompts, sampling=GREEDY)
    made.write_html(tmp_path / "a.html", blind=True, key=tmp_path / "key.json", command="zhuzi eval compare")
    made.write_json(tmp_path / "key.json")
    page = (tmp_path / "a.html").read_text("utf-8")
    for name in (*made.models, *made.fingerprints.values(), str(model), "zhuzi eval compare"):
        assert name not in page
    assert "key.json" in page
    key = [entry["blind_order"] for entry in json.loads((tmp_path / "key.json").read_bytes())["prompts"]]
    assert {tuple(order) for order in key} == {tuple(made.models), tuple(made.models[::-1])}
    shown = re.findall(r'<h3>([AB])</h3><p class="text">(.*?)</p>', page, re.S)
    assert len(shown) == 24
    by_model = [dict(zip(made.models, given, strict=True)) for given in made.answers]
    for at, (letter, text) in enumerate(shown):
        name = key[at // 2]["AB".index(letter)]
        assert text.startswith("<span") or html.unescape(text) == by_model[at // 2][name]


# The judge


def longer(number: int, prompt: str) -> Reply:
    """A judge that prefers the longer answer, and what it reads first of two as long."""
    found = re.findall(r"的回答开始】\n(.*?)\n【", prompt, re.S)
    if len(found) != 2:
        return completion("[[C]]")
    return completion(f"理由。[[A]] 不对，改为\n[[{'A' if len(found[0]) >= len(found[1]) else 'B'}]]")


def test_each_pair_is_judged_in_both_orders() -> None:
    answers = [["长长长", "短", "中中"], ["一二", "三四", "五"], ["同", "同 ", "同"]]
    with serving(longer) as server:
        pairs = judge(Endpoint(server.url, "j"), ["甲问", "乙问", "丙问"], answers)
        assert server.requests == 12  # equal answers are not asked about
        orders = {tuple(re.findall(r"的回答开始】\n(.*?)\n【", prompt, re.S)) for prompt in server.prompts}
    assert ("长长长", "短") in orders and ("短", "长长长") in orders
    assert [pair.models for pair in pairs[0]] == [(0, 1), (0, 2), (1, 2)]
    assert [pair.winner for pair in pairs[0]] == [0, 0, 2]
    assert [pair.winner for pair in pairs[1]] == [None, 0, 1]
    assert [pair.depends_on_order for pair in pairs[1]] == [True, False, False]
    assert [(pair.winner, pair.verdicts, pair.is_read) for pair in pairs[2]] == [(None, None, True)] * 3


@pytest.mark.parametrize(
    ("text", "verdict"),
    [("[[A]]", "A"), ("先是 [[A]]，后来 [[ B ]]", "B"), ("结论：**C**", "C"), ("都好", None), ("[A]", None)],
)
def test_verdicts(text: str, verdict: str | None) -> None:
    assert read_verdict(text) == verdict


def test_the_judges_prompt_keeps_what_it_is_given() -> None:
    prompt = judge_prompt("问 {{first}} {x}", "甲\\1", "乙")
    assert "问 {{first}} {x}" in prompt and "甲\\1" in prompt
    assert "【助手 A 的回答开始】\n甲\\1\n" in prompt and "【助手 B 的回答开始】\n乙\n" in prompt


def test_scores(model: Path, other: Path, tmp_path: Path) -> None:
    with serving(longer) as server:
        made = compare_models([model, other], PROMPTS, sampling=GREEDY, judged_by=Endpoint(server.url, "j"))
    won, lost = made.scores
    assert won.wins + won.ties + won.losses == 2
    assert (won.wins, won.ties, won.losses) == (lost.losses, lost.ties, lost.wins)
    made.write_json(tmp_path / "a.json")
    held = json.loads((tmp_path / "a.json").read_bytes())
    assert held["scores"][0]["model"] == made.models[0] and held["judge"].startswith("j at http://127")
    assert {verdict["first"] for verdict in held["prompts"][0]["pairs"][0]["verdicts"]} <= set(made.models)
    made.write_html(tmp_path / "a.html")
    assert "What the judge prefers" in (tmp_path / "a.html").read_text("utf-8")


def test_a_judge_that_does_not_answer(model: Path, other: Path) -> None:
    with serving(lambda *_: (200, b"<html></html>", {})) as server:
        with pytest.raises(EndpointError, match="not OpenAI's chat completions"):  # before the work
            compare_models([model, other], PROMPTS, judged_by=Endpoint(server.url, "j", backoff=0.001))
        good = Endpoint(server.url, "j", retries=1, backoff=0.001)
        server.reply = lambda number, _: completion("[[C]]") if number < 4 else (500, b"", {})
        made = compare_models([model, other], PROMPTS, sampling=GREEDY, judged_by=good)
    assert made.judging_failed and "HTTP 500" in made.judging_failed
    assert made.judged_by is None and len(made.answers) == 2 and not made.pairs


def test_a_verdict_that_cannot_be_read_does_not_count(model: Path, other: Path) -> None:
    with serving(lambda *_: completion("都不错")) as server:
        made = compare_models([model, other], PROMPTS, sampling=GREEDY, judged_by=Endpoint(server.url, "j"))
    assert made.without_verdict == 2
    assert [(score.wins, score.ties, score.losses) for score in made.scores] == [(0, 0, 0)] * 2


# What cannot be compared


def test_models_that_cannot_be(model: Path, other: Path, adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="given twice"):
        open_models([model, model])
    with pytest.raises(InputError, match=r"no such folder|holds no config\.json"):
        open_models([tmp_path / "nothing"])
    with pytest.raises(MismatchError, match="made on another base model"):
        open_models([adapter], base=other)
    foreign = shutil.copytree(adapter, tmp_path / "foreign")
    (foreign / "zhuzi.json").unlink()
    with pytest.raises(InputError, match="does not tell its base; name it with `base`"):
        open_models([foreign])
    assert open_models([foreign], base=model)[0].adapter is not None
    with pytest.raises(
        InputError, match=r"prompt 2, for .*/model: the prompt has [\d,]+ tokens, and the model 256"
    ):
        compare_models([model], [PROMPTS[0], PromptToCompare("很长" * 200)])
    with pytest.raises(ValueError, match="no model to compare"):
        compare_models([], PROMPTS)
    with pytest.raises(ValueError, match="a judge compares two answers"):
        compare_models([model], PROMPTS, judged_by=Endpoint("http://127.0.0.1:9/v1", "j"))


def test_prompts(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("\ufeff一\n\n 二 \n")
    assert read_prompts(file) == [PromptToCompare("一"), PromptToCompare("二")]
    file.write_text("\n")
    with pytest.raises(InputError, match="holds no prompt"):
        read_prompts(file)
    with pytest.raises(InputError, match="no such file"):
        read_prompts(tmp_path / "none.txt")
    records = tmp_path / "a.jsonl"
    records.write_text('{"instruction": "问"}\n{"instruction": "译", "input": "好", "output": "good"}\n')
    assert read_prompts(records) == [PromptToCompare("问"), PromptToCompare("译", "好", "good")]
    records.write_text('{"messages": []}')
    with pytest.raises(InputError, match="looks like a chat"):
        read_prompts(records)


def zhuzi(*arguments: Any) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "zhuzi", "eval", "compare", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True)


def test_the_command(model: Path, adapter: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "p.txt"
    prompts.write_text("你好\n世界\n")
    page, data = tmp_path / "a.html", tmp_path / "a.json"
    common = ["--model", model, "--model", adapter, "--prompts", prompts, "--max-new-tokens", 4]
    with serving(longer) as server:
        judged = ["--judge", server.url, "--judge-model", "j"]
        done = zhuzi(*common, "--html", page, "--json", data, "--blind", *judged)
    assert done.returncode == 0, done.stderr
    assert "7b-sft/adapter: " in done.stdout and "decided by the order: " in done.stdout
    assert "7b-sft" not in page.read_text("utf-8")
    assert len(json.loads(data.read_bytes())["prompts"]) == 2
    again = zhuzi(*common, "--html", page)
    assert again.returncode == 1 and "already there" in again.stderr
    for wrong, says in (
        ([], "name what to write"),
        (["--html", tmp_path / "b.html", "--blind"], "--blind wants the page"),
        (["--html", tmp_path / "b.html", "--judge", "http://x"], "--judge and --judge-model"),
    ):
        failed = zhuzi(*common, *wrong)
        assert failed.returncode == 2 and says in failed.stderr
