"""A model of karpathy's llama2.c as a folder: python from_llama2c.py stories260K.bin tok512.bin OUT.

Reads llama2.c's first layout (seven numbers, then the matrices in fp32) and its tokenizer's export (score,
length and text of each piece), and writes transformers' files and a SentencePiece model. The tiny models at
https://huggingface.co/karpathy/tinyllamas are real ones: they were trained until they told stories.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np
import torch
from sentencepiece import sentencepiece_model_pb2 as spm
from transformers import LlamaConfig, LlamaForCausalLM


def sentencepiece_model(held: bytes) -> bytes:
    """The SentencePiece model from which llama2.c exported a tokenizer."""
    model = spm.ModelProto()
    kinds = spm.ModelProto.SentencePiece
    at = 4  # after the length of the longest piece
    while at < len(held):
        score, size = struct.unpack_from("<fi", held, at)
        text = held[at + 8 : at + 8 + size].decode()
        at += 8 + size
        id = len(model.pieces)
        kind = (
            kinds.UNKNOWN
            if id == 0
            else kinds.CONTROL
            if id < 3
            else kinds.BYTE
            if id < 259
            else kinds.NORMAL
        )
        model.pieces.add(piece=text.strip() if id < 3 else text.replace(" ", "▁"), score=score, type=kind)
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    trainer.model_type, trainer.byte_fallback = spm.TrainerSpec.BPE, True
    trainer.vocab_size = len(model.pieces)
    trainer.unk_id, trainer.bos_id, trainer.eos_id, trainer.pad_id = 0, 1, 2, -1
    normalizer.name = "identity"
    normalizer.add_dummy_prefix, normalizer.remove_extra_whitespaces = True, False
    normalizer.escape_whitespaces = True
    return bytes(model.SerializeToString())


def llama2c_model(held: bytes) -> LlamaForCausalLM:
    """The model of the file, with heads rotated as transformers has them."""
    dim, hidden, layers, heads, kv_heads, vocab, positions = struct.unpack_from("<7i", held)
    values = np.frombuffer(held, "<f4", offset=28)
    at = 0

    def take(*shape: int) -> torch.Tensor:
        nonlocal at
        part = values[at : at + int(np.prod(shape))]
        at += len(part)
        return torch.from_numpy(part.copy()).view(*shape)

    def rotated(matrix: torch.Tensor, n: int) -> torch.Tensor:
        """Pairs side by side become pairs half a head apart."""
        size = dim // heads
        parts = matrix.view(layers, n, size // 2, 2, dim)
        return parts.transpose(2, 3).reshape(layers, n * size, dim)

    kv = kv_heads * dim // heads
    embedding = take(abs(vocab), dim)
    each = {
        "input_layernorm": take(layers, dim),
        "self_attn.q_proj": rotated(take(layers, dim, dim), heads),
        "self_attn.k_proj": rotated(take(layers, kv, dim), kv_heads),
        "self_attn.v_proj": take(layers, kv, dim),
        "self_attn.o_proj": take(layers, dim, dim),
        "post_attention_layernorm": take(layers, dim),
        "mlp.gate_proj": take(layers, hidden, dim),
        "mlp.down_proj": take(layers, dim, hidden),
        "mlp.up_proj": take(layers, hidden, dim),
    }
    state = {f"model.layers.{i}.{name}.weight": held[i] for name, held in each.items() for i in range(layers)}
    state |= {"model.embed_tokens.weight": embedding, "model.norm.weight": take(dim)}
    if vocab < 0:  # a head of its own, after the two tables of rotations
        take(2, positions, dim // heads // 2)
        state["lm_head.weight"] = take(-vocab, dim)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=abs(vocab),
            hidden_size=dim,
            intermediate_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            max_position_embeddings=positions,
            rms_norm_eps=1e-5,
            tie_word_embeddings=vocab > 0,
            bos_token_id=1,
            eos_token_id=2,
        )
    )
    missing, unexpected = model.load_state_dict(state, strict=False)
    if unexpected or set(missing) - {"lm_head.weight"}:
        raise SystemExit(f"not llama2.c's first layout: missing {missing}, unexpected {unexpected}")
    model.tie_weights()
    return model


def main(model: Path, tokenizer: Path, out: Path) -> None:
    """Write the folder."""
    out.mkdir(parents=True)
    (out / "tokenizer.model").write_bytes(sentencepiece_model(tokenizer.read_bytes()))
    llama2c_model(model.read_bytes()).save_pretrained(out)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    main(*map(Path, sys.argv[1:]))
