"""`examples/dpo.py`: preferences with TRL on one of our models. It needs `pip install 'trl>=1.16'`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scripts import load_script

pytestmark = pytest.mark.slow
pytest.importorskip("trl", reason="trl is not installed: pip install trl")

SCRIPT = Path(__file__).parents[2] / "examples" / "dpo.py"
PAIRS = [
    {"instruction": "Name a colour.", "chosen": "Red.", "rejected": "Seven."},
    {"instruction": "Say a fruit.", "input": "a red one", "chosen": "An apple", "rejected": "A stone"},
]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    file.write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS * 64), "utf-8")
    return file


def likelihoods(model: Path) -> list[float]:
    """How much likelier each chosen answer is than the rejected one, in nats."""
    from transformers import AutoModelForCausalLM

    from zhuzi import Tokenizer
    from zhuzi.infer.prompt import format_prompt

    tokenizer, live = Tokenizer.from_dir(model), AutoModelForCausalLM.from_pretrained(model)

    def of(pair: dict[str, str], answer: str) -> float:
        prompt = tokenizer.encode(format_prompt(pair["instruction"], pair.get("input", "")), add_bos=True)
        ids = torch.tensor([prompt + tokenizer.encode(pair[answer], add_eos=True)])
        with torch.no_grad():
            logs = live(input_ids=ids).logits.float().log_softmax(-1)[0, :-1]
        return float(logs.gather(1, ids[0, 1:, None])[len(prompt) - 1 :].sum())

    return [of(pair, "chosen") - of(pair, "rejected") for pair in PAIRS]


def test_the_chosen_answers_become_likelier_than_the_rejected(
    model: Path, pairs: Path, tmp_path: Path
) -> None:
    """Measured on the merged model, with the prompt and the ids of `zhuzi sft`."""
    from zhuzi.model import merge_adapter

    adapter, merged = tmp_path / "adapter", tmp_path / "merged"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(model), str(pairs), str(adapter)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.returncode, done.stderr
    merge_adapter(model, adapter, merged, unverified=True)
    for before, after in zip(likelihoods(model), likelihoods(merged), strict=True):
        assert after > before


def test_the_ids_are_those_of_tuning(model: Path, pairs: Path, tmp_path: Path) -> None:
    from zhuzi.train.data import IGNORED, Records

    dpo = load_script(SCRIPT, "dpo")
    records = [{**pair, "output": pair["chosen"]} for pair in PAIRS]
    file = tmp_path / "records.json"
    file.write_text(json.dumps(records), "utf-8")
    wanted = Records([file], dpo.zhuzi.Tokenizer.from_dir(model), 256)
    for i, row in enumerate(list(dpo.read_pairs(model, pairs))[:2]):
        ids, labels = wanted[i]
        answer = [id for id, label in zip(ids, labels, strict=True) if label != IGNORED]
        assert row["ours"]["prompt_ids"] + row["ours"]["chosen_ids"] == list(ids)
        assert row["ours"]["chosen_ids"] == answer
