"""A model in fewer bits: size, speed, bits per byte.

    python benches/bench_quantised.py MODEL                    # f16, int8, NF4, q8_0
    python benches/bench_quantised.py MODEL --corpus zh.jsonl --rounds 5

  f16    the folder as `zhuzi model export --format hf --type f16` writes it
  int8   the same with `--bits 8` (bitsandbytes)
  NF4    the same with `--bits 4`
  q8_0   a GGUF file of `zhuzi model export --type q8_0`, in llama.cpp

Every measurement runs in a process of its own, taking turns. Speeds are medians of the rounds: of a prompt
that is read at once, and of an answer's tokens one by one (greedy, past its end). `on disk` is the file or
folder; int8 and NF4 are made from the f16 folder as it is loaded. `in memory` is the sum of all weights as
loaded, with what quantisation adds; zhuzi computes in fp32 on a CPU, so f16 takes twice its file there.
llama.cpp maps its file. Bits per byte are those of the demo's held-out Chinese, unless --corpus is given.

Bias: torch and llama.cpp have the same number of threads (--threads). A small model measures what is around
the products more than the products.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from recording import Recorder

PACKAGES = ("torch", "transformers", "bitsandbytes", "llama-cpp-python")
VARIANTS: dict[str, Any] = {"f16": None, "int8": 8, "NF4": 4, "q8_0": None}
MB = 1e6


def weights(model: Any) -> int:
    """Bytes of all weights, with what quantisation keeps beside them."""
    found: dict[int, int] = {}

    def count(tensor: Any) -> None:
        found[tensor.data_ptr()] = tensor.numel() * tensor.element_size()

    for module in model.modules():
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            count(tensor)
            for beside in (getattr(tensor, "SCB", None), *_state(getattr(tensor, "quant_state", None))):
                if beside is not None:
                    count(beside)
    return sum(found.values())


def _state(state: Any) -> list[Any]:
    """The tensors of bitsandbytes' state of a 4-bit weight."""
    if state is None:
        return []
    inner = getattr(state, "state2", None)  # gone once packed for a kernel
    return [state.absmax, state.code, *([state.offset, inner.absmax, inner.code] if inner else [])]


def child(args: Any) -> None:
    """One variant, in this process: prints its figures."""
    import torch

    from zhuzi import Chat, bits_per_byte
    from zhuzi.infer.engine import TransformersEngine

    torch.set_num_threads(args.threads)
    texts = json.loads(args.texts.read_text("utf-8"))
    chat = Chat.from_dir(args.model, bits=VARIANTS[args.child])
    prompt = chat.tokenizer.encode("\n".join(texts), add_bos=True)[: args.prompt]
    engine = TransformersEngine(chat.model, chat.tokenizer.vocab_size)
    engine.start().advance(prompt[:8])  # what is made at the first use is not counted
    clock = time.process_time if args.clock == "cpu" else time.perf_counter
    sequence, begun = engine.start(), clock()
    logits = sequence.advance(prompt)
    read = clock()
    for _ in range(args.tokens):
        logits = sequence.advance([int(logits.argmax())])
    ended = clock()
    found = {"read": len(prompt) / (read - begun), "made": args.tokens / (ended - read)}
    if args.first:
        held = args.model.stat().st_size if args.child == "q8_0" else weights(chat.model)
        context = min(512, engine.positions or 512)
        measured = bits_per_byte(chat.model, chat.tokenizer, texts, context=context)
        found |= {"memory": held, "bits": measured.per_byte}
    sys.stdout.write(json.dumps(found))


def measure(place: Path, args: Any) -> list[list[Any]]:
    """One row for each variant."""
    from zhuzi.corpus import read_texts
    from zhuzi.demo.sample import Sample
    from zhuzi.model import export_model

    folder = export_model(args.model, place / "f16", format="hf", type="f16").path
    file = export_model(args.model, place / "q8_0.gguf", type="q8_0").path
    texts, size = [], 0
    for text in read_texts([args.corpus]) if args.corpus else Sample.read(None, None, None).zh.measured:
        texts.append(text)
        size += len(text.encode())
        if size >= args.bytes:
            break
    (place / "texts.json").write_text(json.dumps(texts), "utf-8")
    found: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    for turn in range(args.rounds):
        for name, figures in found.items():
            command = [sys.executable, __file__, str(file if name == "q8_0" else folder)]
            command += ["--child", name, "--texts", str(place / "texts.json"), *(["--first"] * (turn == 0))]
            for option in ("threads", "prompt", "tokens", "clock"):
                command += [f"--{option}", str(getattr(args, option))]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{name}: {done.stderr}")
            figures.append(json.loads(done.stdout))
    disk = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    sizes = {"f16": disk, "q8_0": file.stat().st_size}
    args.text_mb = round(size / 1e6, 3)
    rows = []
    for name, figures in found.items():
        speeds = [statistics.median(each[what] for each in figures) for what in ("read", "made")]
        on_disk = round(sizes[name] / MB, 1) if name in sizes else None
        memory, bits = figures[0]["memory"], figures[0]["bits"]
        rows.append([name, on_disk, round(memory / MB, 1), *(round(s, 1) for s in speeds), round(bits, 4)])
    return rows


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    made.add_argument("model", type=Path, help="model folder")
    made.add_argument(
        "--corpus", type=Path, help="text for bits per byte; the demo's Chinese sample by default"
    )
    made.add_argument("--bytes", type=int, default=100_000, help="of text, about")
    made.add_argument("--prompt", type=int, default=256, help="tokens that are read at once, at most")
    made.add_argument("--tokens", type=int, default=64, help="tokens of the answer")
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--threads", type=int, default=2)
    made.add_argument(
        "--clock",
        choices=["wall", "cpu"],
        default="wall",
        help="cpu: on processors, for a busy machine",
    )
    made.add_argument("--label", default="demo", help="which model, for the record")
    made.add_argument("--record", type=Path, help="append the table to this file of records")
    made.add_argument("--child", choices=VARIANTS, help=argparse.SUPPRESS)
    made.add_argument("--texts", type=Path, help=argparse.SUPPRESS)
    made.add_argument("--first", action="store_true", help=argparse.SUPPRESS)
    return made


def main() -> None:
    args = parser().parse_args()
    if args.child:
        child(args)
        return
    recorder = Recorder("quantised", args.label, args.record, PACKAGES)
    with tempfile.TemporaryDirectory() as place:
        rows = measure(Path(place), args)
    columns = [
        "weights",
        "on disk, MB",
        "in memory, MB",
        "prompt, tokens/s",
        "answer, tokens/s",
        "bits per byte",
    ]
    more: dict[str, Any] = {"rounds": args.rounds, "threads": args.threads, "text_mb": args.text_mb}
    if args.clock == "cpu":
        more["note"] = f"seconds on processors, {args.threads} thread(s): other work kept the cores busy"
    recorder.table("quantised", f"{args.label} in fewer bits", columns, rows, **more)


@pytest.mark.bench
def test_quantised(tmp_path: Path) -> None:
    """The tiny form: every variant is measured, and eight bits lose next to nothing."""
    pytest.importorskip("llama_cpp")
    from bench_serve import make_tiny

    make_tiny(tmp_path / "model")
    told = [str(tmp_path / "model"), "--rounds", "1", "--tokens", "4", "--bytes", "2000"]
    rows = {row[0]: row for row in measure(tmp_path, parser().parse_args(told))}
    assert list(rows) == list(VARIANTS)
    assert rows["NF4"][2] < rows["int8"][2] < rows["f16"][2]
    assert all(rows[name][-1] == pytest.approx(rows["f16"][-1], rel=0.01) for name in ("int8", "q8_0"))


if __name__ == "__main__":
    main()
