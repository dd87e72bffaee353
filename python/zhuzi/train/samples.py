"""Texts that the model writes while it trains: OUT/samples.jsonl."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from zhuzi._process import is_main
from zhuzi.infer.chat import Chat, complete
from zhuzi.infer.sampling import Sampling
from zhuzi.infer.template import ALPACA, Template
from zhuzi.record.disk import naming_full_disk
from zhuzi.tokenizer import Tokenizer
from zhuzi.train.evaluation import eager
from zhuzi.train.progress import tell
from zhuzi.train.recipe import Recipe
from zhuzi.train.run import Run
from zhuzi.train.state import TrainCallback, TrainState

#: Characters of a sample that its line shows.
_SHOWN = 200


class Samples(TrainCallback):
    """Has the model answer (`sft`) or continue (`pretrain`) the recipe's prompts, on rank 0.

    It draws from a generator of its own, in evaluation mode: training is not changed by it.
    """

    def __init__(
        self,
        recipe: Recipe,
        run: Run,
        tokenizer: Tokenizer,
        progress: bool | None,
        send: Callable[[int, Sequence[tuple[str, str]]], None],
        template: Template | None = None,
    ) -> None:
        """`send` is given the step, and its prompts and texts; `template` is that of `sft`."""
        self.recipe, self.path, self.tokenizer = recipe, run.path / "samples.jsonl", tokenizer
        self.template = template or ALPACA
        self.shows, self.send = progress is not False, send

    def on_train_begin(self, state: TrainState) -> None:
        if not is_main() or self.recipe.samples is None:
            return
        kept = []
        if state.step and self.path.is_file():
            # A killed run may have written some after its last checkpoint: those steps are trained again.
            lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= state.step]
        self.path.write_text("".join(kept), encoding="utf-8")
        if state.step == 0:
            self._write(state)

    def on_step_end(self, state: TrainState) -> None:
        settings = self.recipe.samples
        if not is_main() or settings is None:
            return
        if state.step % settings.every == 0 or state.step == state.steps:
            self._write(state)

    def _write(self, state: TrainState) -> None:
        assert self.recipe.samples is not None
        written = []
        for prompt in self.recipe.samples.prompts:
            with eager():
                text = self._text(state.model, prompt)
            written.append((prompt, text))
            line = json.dumps({"step": state.step, "prompt": prompt, "text": text}, ensure_ascii=False)
            with naming_full_disk(self.path), self.path.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")
            if self.shows:
                shown = " ".join(f"{prompt} >>> {text}".split())
                cut = f"{shown[:_SHOWN]}..." if len(shown) > _SHOWN else shown
                tell(f"step {state.step:,}, sample: {cut}")
        self.send(state.step, written)

    def _text(self, model: Any, prompt: str) -> str:
        settings = self.recipe.samples
        assert settings is not None
        sampling = Sampling(
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            seed=self.recipe.seed,
        )
        if self.recipe.task == "sft":
            talk = Chat(model, self.tokenizer, self.template)
            return "".join(talk.reply(prompt, sampling=sampling))
        return complete(model, self.tokenizer, prompt, sampling=sampling)
