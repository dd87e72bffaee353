"""Loading a model takes little more memory than the model: a matrix at a time is read and quantised."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# In a process of its own, after a first load that imports what is imported and fills caches.
CHILD = """
import json, sys, threading, time
import bitsandbytes, torch
from zhuzi.model.folder import ModelFolder
from zhuzi.model.quantised import quantisation

def held():
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("RssAnon")).split()[1])

small, large, bits = ModelFolder.open(sys.argv[1]), ModelFolder.open(sys.argv[2]), int(sys.argv[3])
small.load(torch.bfloat16, quantization_config=quantisation(bits, torch.bfloat16))
before, most, stop = held(), [0], threading.Event()

def watch():
    while not stop.wait(0.002):
        most[0] = max(most[0], held())

threading.Thread(target=watch, daemon=True).start()
model = large.load(torch.bfloat16, quantization_config=quantisation(bits, torch.bfloat16))
stop.set()
size = sum(p.numel() * p.element_size() for p in model.parameters())
print(json.dumps({"size": size, "peak": max(most[0], held()) - before}))
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads Linux's account of memory")
def test_quantising_keeps_no_freed_matrices(base_model: Path, tmp_path: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=400, hidden_size=512, intermediate_size=2048, num_hidden_layers=8, num_attention_heads=8
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path / "large")
    for file in base_model.glob("tokenizer*"):
        (tmp_path / "large" / file.name).write_bytes(file.read_bytes())
    environment = {key: value for key, value in os.environ.items() if key != "MALLOC_MMAP_THRESHOLD_"}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(base_model), str(tmp_path / "large"), "8"],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    # 67 MB of bf16 in the file, 34 of int8; without `zhuzi.model.memory` the peak was 127.
    assert found["peak"] <= found["size"] + (16 << 20), found
