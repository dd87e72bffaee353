"""The demo's base model: a small LLaMA that has learnt some English, so that extending it has an effect."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, set_seed

from zhuzi.demo import settings
from zhuzi.model.folder import quiet
from zhuzi.record.output import new_folder
from zhuzi.tokenizer import Tokenizer
from zhuzi.train.loss import Head, next_token_loss

_BATCH = 4  # sequences per step


def make_base(
    tokenizer: Tokenizer, texts: Sequence[str], out: Path, *, steps: int, learning_rate: float, seed: int
) -> tuple[list[tuple[int, float]], float]:
    """Train a LLaMA of 4 layers from scratch on `texts` and save it in fp16 with its tokenizer.

    Returns (step, loss in nats per token) and the seconds it took. It has a loop of its own because no recipe
    trains every parameter. With the chunked loss a step takes half the time that transformers' takes.
    """
    started = time.monotonic()
    set_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=tokenizer.vocab_size,
            hidden_size=128,
            intermediate_size=352,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=2048,  # room for five examples of an exam
            bos_token_id=tokenizer.bos_id,
            eos_token_id=tokenizer.eos_id,
            pad_token_id=tokenizer.pad_id,
        )
    )
    ids = torch.tensor([i for text in texts for i in tokenizer.encode(text, add_eos=True)])
    length = settings.SEQUENCE_LENGTH
    blocks = ids[: len(ids) // length * length].view(-1, length)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    losses: list[tuple[int, float]] = []
    for step in range(1, steps + 1):
        batch = blocks[torch.randint(len(blocks), (_BATCH,))]
        hidden = model.model(input_ids=batch).last_hidden_state
        loss = next_token_loss(hidden, batch, Head(model.lm_head.weight))
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append((step, loss.item()))
    with new_folder(out) as folder, quiet():
        model.to(torch.float16).save_pretrained(folder)
        tokenizer.save(folder)
    return losses, time.monotonic() - started
