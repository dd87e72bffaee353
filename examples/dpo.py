"""Tune a model on preferences with TRL: python dpo.py MODEL_DIR PAIRS.jsonl OUT.

DPO (Rafailov et al. 2023, arXiv 2305.18290) after `zhuzi sft`. A line of PAIRS is `{"instruction", "chosen",
"rejected"}`, with an `input` if it has one. OUT is PEFT's adapter; merge it and talk to the result:

    zhuzi model merge --model MODEL_DIR --adapter OUT --out MERGED --unverified
    zhuzi chat --model MERGED

It needs `pip install trl` beside `zhuzi[train]` (tried with trl 1.16). The ids are those of the model's own
template, as `zhuzi sft` and `zhuzi chat` make them: TRL encodes prompt and answer as one text, which gives
others where the two meet. The reference is the model without the adapter: no second copy of it is in memory.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

import zhuzi
from zhuzi.hf import ZhuziTokenizer
from zhuzi.infer.prompt import question
from zhuzi.infer.template import Message
from zhuzi.infer.templates import template_of

MAX_LENGTH = 512  # tokens; what is beyond is cut


class Pairs(DataCollatorForPreference):
    """Batches of our ids, in place of those that TRL made of the texts."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        return super().torch_call([example["ours"] for example in examples])


def read_pairs(model: Path, file: Path) -> Dataset:
    """The pairs, as texts for TRL and as our ids: prompt, answer with its end."""
    tokenizer, template = zhuzi.Tokenizer.from_dir(model), template_of(model)

    def ids(asked: str, answer: str) -> tuple[list[int], list[int]]:
        encoded = template.encode(tokenizer, [Message("user", asked), Message("assistant", answer)])
        begin, end = encoded.answers[-2:]
        return encoded.ids[:begin], encoded.ids[begin:end]

    rows = []
    for line in file.read_text("utf-8").splitlines():
        pair = json.loads(line)
        asked = question(pair["instruction"], pair.get("input", ""))
        prompt, chosen = ids(asked, pair["chosen"])
        _, rejected = ids(asked, pair["rejected"])
        ours = {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}
        rows.append({"prompt": asked, "chosen": pair["chosen"], "rejected": pair["rejected"], "ours": ours})
    return Dataset.from_list(rows)


def main(model: Path, file: Path, out: Path) -> None:
    """Train an adapter on all pairs, once over."""
    on_gpu = torch.cuda.is_available()
    tokenizer = ZhuziTokenizer.from_pretrained(model)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16 if on_gpu else torch.float32),
        args=DPOConfig(
            output_dir=str(out),
            num_train_epochs=1,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=4,
            learning_rate=5e-5,
            beta=0.1,
            max_length=MAX_LENGTH,
            bf16=on_gpu,
            use_cpu=not on_gpu,
            remove_unused_columns=False,
            report_to="none",
            save_strategy="no",
            logging_steps=1,
        ),
        data_collator=Pairs(pad_token_id=tokenizer.pad_token_id, max_length=MAX_LENGTH),
        train_dataset=read_pairs(model, file),
        processing_class=tokenizer,
        peft_config=LoraConfig(
            r=8, lora_alpha=16, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], task_type="CAUSAL_LM"
        ),
    )
    trainer.train()
    trainer.model.save_pretrained(out)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    main(*map(Path, sys.argv[1:]))
