"""Training on a grown vocabulary beside the stock stack: speed, peak memory, loss.

    python benches/bench_training.py             # stock, 8-bit full, 8-bit new rows
    python benches/bench_training.py --all

Every measurement runs in a process of its own, taking turns; its first steps are not counted. The model has
random weights: a 7B on a GPU (14 GB in TMPDIR), a small one on a CPU, with 49,953 rows, 32,000 of them old.
LoRA of rank 8 on q, k, v and o, embedding and head are trained with AdamW (fused). A step is forward,
backward, clipping and optimiser. Loading is what comes before: from the folder to a model that can train, its
files in memory, imports done. Peak memory is torch's on a GPU, else the growth of the process's ru_maxrss
from before the model was loaded. Speed is that of a round's median step, then the median over rounds; memory
the most of any round. A variant for which a GPU has too little memory is said to be out of memory.

  stock       peft (`modules_to_save`) and transformers' Trainer over bitsandbytes' 8-bit layers
  stock-16    the same over a 16-bit base
  BITS-full   ours: all rows of embedding and head train, as published
  BITS-new    ours: `vocabulary: new-rows`

On a GPU ours are compiled (`compile: auto`). Activations are checkpointed on a GPU and kept on a CPU, unless
--checkpointing or --no-checkpointing is given; --all measures both, as -ckpt and -keep. A GPU measures one
round by default, so that the default selection takes minutes, a CPU three.

Bias: we chose sizes and text (random ids; all variants get the same ones); stock's settings are those of its
documentation, with the fused AdamW that it does not take by default.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from recording import Recorder

ROWS, OLD_ROWS = 49_953, 32_000
SIZES: dict[str, dict[str, int]] = {
    "7b": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    },
    "small": {
        "hidden_size": 512,
        "intermediate_size": 1376,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
    },
    "tiny": {"hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 2, "num_attention_heads": 4},
}
DEFAULT = ["stock", "8-full", "8-new"]
KINDS = [*DEFAULT, "stock-16", "16-full", "16-new", "4-full", "4-new"]
VARIANTS = [*KINDS, *(f"{kind}-{way}" for kind in KINDS for way in ("ckpt", "keep"))]
LORA: dict[str, Any] = {"rank": 8, "alpha": 32, "dropout": 0.05}
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
TARGETS = {"attention": ATTENTION, "all": [*ATTENTION, "gate_proj", "up_proj", "down_proj"]}
PACKAGES = ("torch", "transformers", "accelerate", "peft", "bitsandbytes")
WARM_UP = 2  # steps that are not counted


# A process of its own makes the model: what torch holds of a GPU goes when it ends.
MAKE_MODEL = """
import json, sys, torch
from transformers import LlamaConfig, LlamaForCausalLM

folder, settings = sys.argv[1:]
torch.manual_seed(0)
torch.set_default_dtype(torch.float16)
with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
    model = LlamaForCausalLM(LlamaConfig(**json.loads(settings)))
model.save_pretrained(folder, max_shard_size="2GB")
"""


def make_model(folder: Path, size: str) -> None:
    """A LLaMA with random weights, stored in fp16."""
    settings = {"max_position_embeddings": 2048, "tie_word_embeddings": False, "vocab_size": ROWS}
    settings = json.dumps({**settings, **SIZES[size]})
    subprocess.run([sys.executable, "-c", MAKE_MODEL, str(folder), settings], check=True)


class RandomBlocks:
    """Blocks of random ids: the first that is asked for is the same in every process, and so on.

    So stock and ours train on the same blocks, although each puts its data into an order of its own.
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self.taken = 0

    def __len__(self) -> int:
        return 1 << 20

    def __getitem__(self, i: int) -> Any:
        import torch

        self.taken += 1
        return torch.randint(ROWS, (self.length,), generator=torch.Generator().manual_seed(self.taken))


def seconds_since(begin: float) -> float:
    """Seconds until the device has done what it was given."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def peak() -> int:
    """Bytes."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def ours(variant: str, args: Any) -> tuple[float, int, list[float], list[float]]:
    """Seconds to load, the most bytes held, time stamps of the ends of steps, and losses."""
    from zhuzi.model.folder import ModelFolder
    from zhuzi.train import TrainCallback, TrainState
    from zhuzi.train.base import load_for_training
    from zhuzi.train.data import collate_blocks
    from zhuzi.train.loop import Loop
    from zhuzi.train.recipe import PretrainRecipe

    bits, vocabulary = variant.split("-")[:2]
    recipe = PretrainRecipe.model_validate(
        {
            "task": "pretrain", "model": str(args.folder), "corpus": args.folder,
            "output": args.folder / variant,
            "vocabulary": "new-rows" if vocabulary == "new" else "full", "base_bits": int(bits),
            "lora": {**LORA, "targets": TARGETS[args.targets]},
            "original_rows": OLD_ROWS if vocabulary == "new" else None, "sequence_length": args.length,
            "steps": args.steps, "batch_size": args.batch, "learning_rate": 1e-4, "log_every": 1,
            "save_every": 1_000_000, "gradient_checkpointing": args.checkpointing,
            "compile": args.compile,
        }
    )  # fmt: skip
    begin = time.perf_counter()
    model = load_for_training(ModelFolder.open(args.folder), recipe)
    loaded = seconds_since(begin)
    most = peak()  # the loop counts a GPU's from its own begin
    times = []

    class Clock(TrainCallback):
        def on_step_end(self, state: TrainState) -> None:
            times.append(time.perf_counter())

    run: Any = SimpleNamespace(checkpoints=args.folder / variant / "checkpoints")
    run.checkpoints.mkdir(parents=True, exist_ok=True)  # of the round before
    loop = Loop(model, recipe, run, RandomBlocks(args.length), collate_blocks, [Clock()])
    loop._save = lambda: None  # type: ignore[method-assign]  # a save is not what is measured
    state = loop.train()
    return loaded, max(most, peak()), times, [entry["loss"] for entry in state.history]


def stock(variant: str, args: Any) -> tuple[float, int, list[float], list[float]]:
    """The same with peft, transformers' Trainer and bitsandbytes."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import (
        AutoModelForCausalLM,
        BitsAndBytesConfig,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    from zhuzi.train.base import compute_dtype, device
    from zhuzi.train.data import collate_blocks

    quantised = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["lm_head", "embed_tokens"])
    begin = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(
        args.folder, dtype=compute_dtype(), device_map={"": device()},
        quantization_config=None if variant.startswith("stock-16") else quantised,
    )  # fmt: skip
    model = get_peft_model(
        model,
        LoraConfig(
            r=LORA["rank"], lora_alpha=LORA["alpha"], lora_dropout=LORA["dropout"],
            target_modules=TARGETS[args.targets], modules_to_save=["embed_tokens", "lm_head"],
            task_type="CAUSAL_LM",
        ),
    )  # fmt: skip
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    loaded = seconds_since(begin)
    times: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, arguments: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times.append(time.perf_counter())

    arguments = TrainingArguments(
        output_dir=str(args.folder / variant), max_steps=args.steps, per_device_train_batch_size=args.batch,
        optim="adamw_torch_fused", learning_rate=1e-4, lr_scheduler_type="cosine", logging_steps=1,
        save_strategy="no", report_to="none", disable_tqdm=True, remove_unused_columns=False,
        use_cpu=not torch.cuda.is_available(), bf16=compute_dtype() == torch.bfloat16,
        fp16=compute_dtype() == torch.float16, gradient_checkpointing=args.checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if args.checkpointing else None,
    )  # fmt: skip
    trainer = Trainer(
        model=model, args=arguments, train_dataset=RandomBlocks(args.length), data_collator=collate_blocks,
        callbacks=[Clock()],
    )  # fmt: skip
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return loaded, peak(), times, losses


def child(args: Any) -> None:
    """Measure one variant and print it as JSON, last on stdout."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(args.threads)
    import bitsandbytes  # noqa: F401  # imported before memory is looked at, as torch is
    import peft  # noqa: F401

    before = 0 if torch.cuda.is_available() else peak()
    loaded, most, times, losses = (stock if args.child.startswith("stock") else ours)(args.child, args)
    steps = [b - a for a, b in zip(times[WARM_UP - 1 :], times[WARM_UP:], strict=False)]
    found = {"loaded": loaded, "seconds": statistics.median(steps), "peak": most - before, "losses": losses}
    sys.stdout.write("\n" + json.dumps(found))


def measure(variant: str, args: Any) -> dict[str, Any]:
    """Run one variant in a process of its own; empty if the GPU's memory does not suffice."""
    words = [sys.executable, __file__, "--child", variant, "--folder", str(args.folder)]
    for name in ("steps", "batch", "length", "threads", "targets", "compile"):
        words += [f"--{name}", str(getattr(args, name))]
    keeps = variant.endswith("-keep") or not (variant.endswith("-ckpt") or args.checkpointing)
    words += [] if keeps else ["--checkpointing"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode and "out of memory" in done.stderr:
        return {}
    if done.returncode:
        raise SystemExit(f"{variant}: {done.stderr[-3000:]}")
    measured: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return measured


def compare(args: Any) -> None:
    """Measure the variants in turn, and print and record the table."""
    shape = f"{args.size}, {args.batch} x {args.length} tokens a step, LoRA on {args.targets}"
    if args.checkpointing and not args.all:
        shape += ", checkpointing"
    # Made first: the load that it notes is that before the bench.
    recorder = Recorder("training", args.label or shape, args.record, PACKAGES)
    every = [variant for variant in VARIANTS if variant.endswith(("-ckpt", "-keep"))]
    variants = args.variant or (every if args.all else DEFAULT)
    runs: dict[str, list[dict[str, Any]]] = {variant: [] for variant in variants}
    for number in range(1, args.rounds + 1):
        for variant in variants:
            run = measure(variant, args)
            if not run:
                sys.stderr.write(f"round {number} of {args.rounds}: {variant}: out of memory\n")
                continue
            runs[variant].append(run)
            figures = (
                f"{run['loaded']:.1f} s to load, {run['seconds']:.3f} a step, {run['peak'] / 2**30:.2f} GiB"
            )
            sys.stderr.write(f"round {number} of {args.rounds}: {variant}: {figures}\n")
    runs = {variant: held for variant, held in runs.items() if len(held) == args.rounds}
    if not runs:
        raise SystemExit("none of them fits this GPU; try a smaller --batch")
    tokens = args.batch * args.length
    speed = {v: tokens / statistics.median(run["seconds"] for run in held) for v, held in runs.items()}
    memory = {v: max(run["peak"] for run in held) / 2**30 for v, held in runs.items()}
    first = next(iter(runs))
    rows: list[tuple[object, ...]] = [
        (
            variant,
            round(speed[variant]),
            round(speed[variant] / speed[first], 2),
            round(memory[variant], 2),
            round(memory[variant] / memory[first], 2),
            round(statistics.median(run["loaded"] for run in runs[variant]), 1),
            round(runs[variant][0]["losses"][-1], 4),
        )
        for variant in runs
    ]
    rows += [(variant, "out of memory", *[""] * 5) for variant in variants if variant not in runs]
    columns = [
        "variant",
        "tokens/s",
        f"x {first}",
        "peak GiB",
        f"of {first}'s",
        "s to load",
        f"loss after {args.steps} steps",
    ]
    recorder.table(
        "training", shape, columns, rows, rounds=args.rounds, threads=args.threads, device=device_name()
    )


def device_name() -> str:
    """The GPU, or the CPU."""
    from zhuzi.train.base import device_name

    return device_name()


def parser() -> argparse.ArgumentParser:
    import os

    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    made.add_argument("--size", choices=SIZES, help="7b on a GPU, small on a CPU by default")
    made.add_argument("--batch", type=int, help="sequences per step: 8 on a GPU, 4 on a CPU by default")
    made.add_argument("--length", type=int, default=512, help="tokens per sequence")
    made.add_argument("--targets", choices=TARGETS, default="attention", help="what LoRA adapts")
    made.add_argument("--compile", choices=("auto", "on", "off"), default="auto", help="ours alone")
    made.add_argument("--steps", type=int, default=8, help=f"the first {WARM_UP} are not counted")
    made.add_argument("--rounds", type=int, help="1 on a GPU, 3 on a CPU by default")
    made.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    made.add_argument("--checkpointing", action=argparse.BooleanOptionalAction, help="on by default on a GPU")
    made.add_argument("--all", action="store_true", help="all variants")
    made.add_argument(
        "--variant", action="append", choices=VARIANTS, help="only these; the first is compared with"
    )
    made.add_argument("--label", default="", help="what was measured, for the record; the shape by default")
    made.add_argument("--record", type=Path, help="append the table to this file of records")
    made.add_argument("--child", choices=VARIANTS, help=argparse.SUPPRESS)
    made.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return made


def main() -> None:
    args = parser().parse_args()
    if args.steps <= WARM_UP:
        raise SystemExit(f"--steps {args.steps}: want more than the {WARM_UP} that are not counted")
    if args.child:
        args.checkpointing = bool(args.checkpointing)
        child(args)
        return
    import torch

    cuda = torch.cuda.is_available()
    args.size = args.size or ("7b" if cuda else "small")
    args.batch = args.batch or (8 if cuda else 4)
    args.rounds = args.rounds or (1 if cuda else 3)
    args.checkpointing = cuda if args.checkpointing is None else args.checkpointing
    with tempfile.TemporaryDirectory() as place:
        args.folder = Path(place)
        make_model(args.folder, args.size)
        compare(args)


@pytest.mark.bench
def test_training() -> None:
    """The tiny form: every kind runs, and the losses of the same training agree."""
    with tempfile.TemporaryDirectory() as place:
        args = parser().parse_args(["--size", "tiny", "--batch", "2", "--length", "32", "--steps", "4"])
        args.folder, args.checkpointing = Path(place), False
        make_model(args.folder, "tiny")
        losses = {v: measure(v, args)["losses"] for v in [*KINDS, "stock-ckpt", "8-new-ckpt"]}
    for variant in losses:
        assert losses[variant] == pytest.approx(losses["stock"], rel=0.02), variant


if __name__ == "__main__":
    main()
