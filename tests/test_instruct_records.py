"""Reading a model's answers, judging its records, drawing its prompts."""

from __future__ import annotations

import importlib.util
import json
import random
import time
from pathlib import Path
from typing import Any

import pytest

from zhuzi.errors import InputError
from zhuzi.instruct.filters import REASONS, Filters, Judge, han_share
from zhuzi.instruct.parse import Parsed, parse_answer
from zhuzi.instruct.prompts import Material, make_prompt, read_seeds
from zhuzi.instruct.similar import Similar, rouge_l, tokens_of
from zhuzi.train.alpaca import KEYS

ONE = '{"no": 1, "instruction": "解释成语", "input": "无", "output": "好的"}'
RECORD = (1, "解释成语", "", "好的")


@pytest.mark.parametrize(
    ("text", "records", "broken"),
    [
        (ONE, [RECORD], 0),
        (f"好的，以下是：\n```json\n[{ONE},\n{ONE}\n]\n```\n希望有帮助！", [RECORD, RECORD], 0),
        (f'{{"records": [{ONE}, {ONE}]}}', [RECORD, RECORD], 0),
        (f'[{ONE}, {ONE}, {{"no": 3, "instruction": "写到一半', [RECORD, RECORD], 1),
        (f'{{"data": [{ONE}, {ONE}, {{"no": 3, "instruction": "写", "input"', [RECORD, RECORD], 1),
        (f'1. {ONE}\n2. {ONE}', [RECORD, RECORD], 0),
        (f'<think>先想想 {ONE}</think>\n{ONE}', [RECORD], 0),
        (f'<think>没有想完 {ONE}', [], 0),
        ('{"instruction": "说说"内卷"的意思", "input": "", "output": "指"过度竞争"，"}\n' + ONE,
         [(None, '说说"内卷"的意思', "", '指"过度竞争"，'), RECORD], 0),
        ('{"instruction": "换\n行", "output": "一\n二",}', [(None, "换\n行", "", "一\n二")], 0),
        ('{"指令": "算", "输出": 42}{"question": "问", "answer": ["甲", "乙"]}',
         [(None, "算", "", "42"), (None, "问", "", "甲\n乙")], 0),
        ('{"no": "7.", "instruction": " 写诗 ", "input": null, "output": "春"}', [(7, "写诗", "", "春")], 0),
        ('{"instruction": "问", "output": ""}{"instruction": 3}{"instruction": "x", "output": {}}', [], 3),
        ("1. 指令：写诗\n输入：无\n输出：春眠\n不觉晓\n\n2. 指令：翻译\n输入：你好\n输出：hello\n",
         [(1, "写诗", "", "春眠\n不觉晓"), (2, "翻译", "你好", "hello")], 0),
        ("### 1\n**Instruction:** 写诗\n**Output:** 春\n\n---\n### 2\n**Instruction:** 再写\n**Output:** 好",
         [(None, "写诗", "", "春"), (None, "再写", "", "好")], 0),
        ("指令：写到一半", [], 1),
        ("抱歉，我不能。", [], 0),
        ("<html><body>{}</body></html>", [], 0),
        ("", [], 0),
        ('{"instruction": "a\\ud83d", "output": "b"}', [(None, "a?", "", "b")], 0),
    ],
)  # fmt: skip
def test_answers(text: str, records: list[tuple[Any, ...]], broken: int) -> None:
    parsed = parse_answer(text)
    found = [(record.number, record.instruction, record.input, record.output) for record in parsed.records]
    assert (found, parsed.broken) == (records, broken)


def test_an_answer_cut_anywhere_keeps_its_whole_records() -> None:
    lines = [
        json.dumps({"no": n, "instruction": f"第{n}条“指令”", "input": "", "output": '说"好"\n'})
        for n in range(4)
    ]
    whole = "[" + ",\n".join(lines) + "]"
    for end in range(len(whole)):
        cut = parse_answer(whole[:end])
        complete = sum(whole.index(line) + len(line) <= end for line in lines)
        assert [record.number for record in cut.records] == list(range(complete))


@pytest.mark.parametrize(
    "text",
    ["{" * 10**6, '{"a":' * 10**6, '{"' * 10**6, "[{" * 10**6, '{"instruction":"' * 10**5, '"' * 10**6,
     "1. 指令：\n" * 10**5, "\n" * 10**6 + "指令：" + "\n-" * 10**5,
     '{"instruction": "a", "output": "' + "{" * 10**6],
)  # fmt: skip
def test_no_answer_takes_long(text: str) -> None:
    started = time.monotonic()
    parse_answer(text)
    assert time.monotonic() - started < 5


def test_random_answers_never_raise() -> None:
    draw = random.Random(7)
    parts = [
        ONE,
        "{",
        "}",
        "[",
        "]",
        '"',
        "\\",
        "\n",
        "指令：",
        "输出：",
        '"instruction"',
        ":",
        ",",
        "```",
        "<think>",
        "3.",
    ]
    for _ in range(3000):
        parse_answer("".join(draw.choices(parts, k=draw.randrange(12))))


# ROUGE-L


def test_rouge_l_is_that_of_the_library() -> None:
    if importlib.util.find_spec("rouge_score") is None:
        pytest.skip("needs rouge_score, the library that self-instruct uses")
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    draw = random.Random(1)
    words = [
        "write",
        "a",
        "short",
        "poem",
        "about",
        "the",
        "sea",
        "and",
        "the",
        "Sky,",
        "in",
        "3",
        "lines:",
        "rhyme",
        "it!",
    ]
    for _ in range(500):
        a, b = (" ".join(draw.choices(words, k=draw.randrange(1, 15))) for _ in range(2))
        theirs = scorer.score(a, b)["rougeL"].fmeasure
        assert rouge_l(tokens_of(a), tokens_of(b)) == pytest.approx(theirs, abs=1e-12)


def plain_rouge_l(a: list[str], b: list[str]) -> float:
    """The textbook's table."""
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
    return 2 * table[-1][-1] / (len(a) + len(b)) if a and b else 0.0


def instructions(count: int, seed: int) -> list[list[str]]:
    """Token lists of which many are like each other."""
    draw = random.Random(seed)
    letters = [chr(0x4E00 + n) for n in range(60)]
    made: list[list[str]] = []
    for _ in range(count):
        if made and draw.random() < 0.5:
            near = list(draw.choice(made))
            for _ in range(draw.randrange(1, 5)):
                near[draw.randrange(len(near))] = draw.choice(letters)
            made.append(near[: draw.randrange(len(near) // 2, len(near)) + 1])
        else:
            made.append(draw.choices(letters, k=draw.randrange(2, 30)))
    return made


@pytest.mark.parametrize("most", [0.3, 0.7, 0.95, 1.0])
def test_the_index_finds_what_comparing_all_pairs_finds(most: float) -> None:
    index, kept = Similar(most), []
    found = 0
    for tokens in instructions(150, seed=int(most * 100)):
        like = [other for other in kept if plain_rouge_l(tokens, other) > most + 1e-12]
        assert rouge_l(tokens, kept[0] if kept else tokens) == pytest.approx(
            plain_rouge_l(tokens, kept[0] if kept else tokens)
        )
        at = index.find(tokens)
        assert (at is not None) == bool(like)
        if at is None:
            index.add(tokens)
            kept.append(tokens)
        else:
            found += 1
            assert kept[at] == like[0]
    assert found or most > 0.9


def test_min_hash_finds_nearly_all_and_nothing_else() -> None:
    exact, many = Similar(0.7), Similar(0.7, exact=0)
    texts = instructions(1500, seed=3)
    agreed = wrong = 0
    for tokens in texts:
        true, found = exact.find(tokens), many.find(tokens)
        agreed += (true is not None) == (found is not None)
        wrong += true is None and found is not None
        if true is None:
            exact.add(tokens)
            many.add(tokens)
    assert wrong == 0
    assert agreed >= 0.998 * len(texts)


def test_tokens() -> None:
    assert tokens_of("用Python3写“快排”，ＡＢＣ！") == ["用", "python3", "写", "快", "排", "abc"]
    assert rouge_l([], ["a"]) == 0.0


# Judging


def record(instruction: str, output: str = "好的，春天来了。", given: str = "") -> Parsed:
    return Parsed(instruction, given, output, None)


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (record("请写一首关于大海的小诗"), None),
        (record("写诗"), "too short"),
        (record("长" * 1001), "too long"),
        (record("请写一首关于大海的小诗", "长" * 8001), "too long"),
        (record("Write a poem about the sea"), "not Chinese"),
        (record("12345678"), "not Chinese"),
        (record("用 Python 写一个快速排序函数", "def f(): ..."), None),
        (record("把这句话译成英文", "The sea is calm.", "海面很平静。"), None),
        (record("讲讲量子力学的基本假设", "很抱歉，我无法回答这个问题。"), "a refusal"),
        (record("讲讲量子力学的基本假设", "作为一个人工智能语言模型，我没有感情。"), "a refusal"),
        (record("讲讲量子力学的基本假设", "As an AI language model, I cannot"), "a refusal"),
        (record("写一段自我介绍，用于面试", "作为一名人工智能专业的学生，我热爱编程。"), None),
        (record("写一封道歉信给老师", "老师，很抱歉我昨天迟到了，以后一定改正。"), None),
        (record("描述下图中的场景"), "asks for more than text"),
        (record("描述这张图片里的人物"), "asks for more than text"),
        (record("晚上图书馆几点关门比较合适"), None),
        (record("把下面的句子翻译成英文", "请提供需要翻译的句子。"), "asks for what is not given"),
        (record("写一句循环播放的广告语", "好" * 400), "repeats itself"),
        (record("为什么晒在阳台上的湿衣服有风时干得更快"), "like a seed"),
    ],
)
def test_reasons(made: Parsed, reason: str | None) -> None:
    judge = Judge(Filters(), [{"instruction": "为什么晒在阳台上的湿衣服，有风的时候干得更快？"}])
    assert judge.reason(made) == reason
    assert reason is None or reason in REASONS


def test_nothing_is_kept_twice() -> None:
    judge = Judge(Filters(), [])
    assert judge.reason(record("请写一首关于大海的小诗")) is None
    assert judge.reason(record("请写一首关于大海的小诗")) == "like an earlier one"
    assert judge.reason(record("请你写一首关于大海的短诗")) == "like an earlier one"
    assert judge.reason(record("请解释为什么大海是蓝色的")) is None
    anything = Judge(Filters(similarity=1.0, min_han=0), [])
    assert anything.reason(record("Write a poem")) is None
    assert anything.reason(record("Write a poem!")) == "like an earlier one"
    assert anything.reason(record("Write a poem now")) is None


def test_filters_that_cannot_be() -> None:
    for settings in ({"min_han": 1.5}, {"similarity": float("nan")}, {"max_output": -1}):
        with pytest.raises(ValueError, match=f"{next(iter(settings))}: want"):
            Filters(**settings)


def test_han_share() -> None:
    assert han_share("用 Python 写") == pytest.approx(2 / 3)
    assert han_share("123") == han_share("") == 0.0


# Prompts


def test_the_lists_of_the_package() -> None:
    material = Material.read()
    assert len(material.seeds) >= 60 and len(material.topics) >= 150 and len(material.tasks) >= 25
    tasks = {task.split("：")[0] for task in material.tasks}
    seeds = [json.loads(line) for line in seed_file().read_text("utf-8").splitlines()]
    assert {seed["task"] for seed in seeds} == tasks
    judge = Judge(Filters(), [])
    for seed in material.seeds:  # they must pass what records must pass
        assert judge.reason(Parsed(seed["instruction"], seed["input"], seed["output"], None)) is None, seed


def seed_file() -> Path:
    import zhuzi.instruct

    return Path(zhuzi.instruct.__path__[0]) / "data" / "seeds.jsonl"


def test_a_prompt_is_a_function_of_seed_and_call() -> None:
    material = Material.read()
    prompts = [make_prompt(material, seed=1, call=call, count=20) for call in range(30)]
    assert prompts[7] == make_prompt(material, seed=1, call=7, count=20)
    assert prompts[7] != make_prompt(material, seed=2, call=7, count=20)
    assert len({prompt.text for prompt in prompts}) == 30
    assert len({topic for prompt in prompts for _, topic in prompt.assignments}) > 150
    assert len({seed for prompt in prompts for seed in prompt.seeds}) > 40
    few = Material(material.seeds[:1], ["茶"], ["分类：分"])
    prompt = make_prompt(few, seed=0, call=0, count=3)
    assert prompt.assignments == [("分类", "茶")] * 3 and prompt.seeds == [0]
    assert "3. 【分类】分（主题：茶）" in prompt.text and "{{" not in prompt.text


def test_records_are_traced_to_what_was_asked_for() -> None:
    prompt = make_prompt(Material.read(), seed=0, call=0, count=3)
    first, second, third = prompt.assignments

    def traced(*numbers: int | None, broken: str = "") -> list[tuple[str | None, str | None]]:
        lines = [json.dumps({"no": n, "instruction": "问", "output": "答"}) for n in numbers]
        return [found[1:] for found in prompt.sources(parse_answer("\n".join([*lines, broken])))]

    assert traced(3, 1) == [third, first]
    assert traced(2, 2, 1) == [(None, None), (None, None), first]
    assert traced(9, 0) == [(None, None)] * 2
    assert traced(None, None, None) == [first, second, third]
    assert traced(None, None) == [(None, None)] * 2
    assert traced(None, None, None, broken='{"instruction"') == [(None, None)] * 3


def test_seeds_of_other_shapes(tmp_path: Path) -> None:
    seeds = tmp_path / "seeds.jsonl"
    seeds.write_text(
        json.dumps({"id": "a", "instruction": "译", "instances": [{"input": "好", "output": "good"}]})
        + "\n"
        + json.dumps({"instruction": "写", "output": "诗", "more": 1})
    )
    assert read_seeds(seeds) == [
        dict(zip(KEYS, ("译", "好", "good"), strict=True)),
        dict(zip(KEYS, ("写", "", "诗"), strict=True)),
    ]
    seeds.write_text('{"messages": []}')
    with pytest.raises(InputError, match=r"seeds\.jsonl: line 1: looks like a chat"):
        read_seeds(seeds)
    seeds.write_text('{"instruction": "写", "output": " "}')
    with pytest.raises(InputError, match="no record with an output"):
        read_seeds(seeds)


def test_lists_that_cannot_be_read(tmp_path: Path) -> None:
    file = tmp_path / "topics.txt"
    with pytest.raises(InputError, match="no such file; want a text file with one topic a line"):
        Material.read(topics=file)
    file.write_text("# nothing\n\n")
    with pytest.raises(InputError, match="holds no topic"):
        Material.read(topics=file)
    file.write_bytes("茶叶".encode("gb18030"))
    with pytest.raises(InputError, match="not UTF-8 at byte 0"):
        Material.read(topics=file)
    file.write_text("\ufeff茶\n茶\n 咖啡 \n")
    assert Material.read(topics=file).topics == ["茶", "咖啡"]


def test_seeds_of_a_published_collection(reference: Path) -> None:
    seeds = read_seeds(reference / "instructions" / "belle_zh_seed_tasks.jsonl")
    assert len(seeds) > 100 and all(seed["output"] for seed in seeds)
