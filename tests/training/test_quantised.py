"""The 8-bit base is bitsandbytes' own to the bit, however it was quantised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Int8Params, Params4bit
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from zhuzi.model import quantised
from zhuzi.model.folder import ModelFolder
from zhuzi.model.quantised import quantisation, quantise


def matrix(rows: int, columns: int) -> torch.Tensor:
    """With values that fp16 cannot hold exactly, one large value, and a row of zeros."""
    made = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows)) * 0.02
    made[rows // 2, columns // 3] = 3.0
    made[rows // 3] = 0.0
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(3, 5), (130, 4096), (1000, 700), (2, 600_000)])
def test_rows_and_scales_are_bitsandbytes(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    given = matrix(*shape).to(dtype)
    for layout in (given, given.T.contiguous().T):
        theirs = Int8Params(layout.clone(), requires_grad=False).to("cpu")
        rows, scales = quantise(layout)
        assert torch.equal(rows, theirs.data) and torch.equal(scales, theirs.SCB)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_on_a_gpu_too(dtype: torch.dtype) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    given = matrix(130, 4096).to(dtype)
    theirs = Int8Params(given.clone(), requires_grad=False).to("cuda")
    for layout in (given.cuda(), given.cuda().T.contiguous().T):
        rows, scales = quantise(layout)
        assert rows.is_cuda and torch.equal(rows, theirs.data) and torch.equal(scales, theirs.SCB)


@pytest.mark.parametrize("bits", [8, 4])
def test_having_too_little_memory_is_said(model: Path, bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers goes on after an error of a conversion, and then calls the model broken."""

    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(quantised, "int8_vectorwise_quant", full)
    monkeypatch.setattr(Params4bit, "to", full)
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        ModelFolder.open(model).load(torch.float32, quantization_config=quantisation(bits, torch.float32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_is_the_one_that_transformers_loads(model: Path, dtype: torch.dtype) -> None:
    own = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["lm_head", "embed_tokens"])
    theirs = AutoModelForCausalLM.from_pretrained(model, dtype=dtype, quantization_config=own).eval()
    ours = ModelFolder.open(model).load(dtype, quantization_config=quantisation(8, dtype))
    assert ours.is_loaded_in_8bit and ours.quantization_method == theirs.quantization_method
    with pytest.raises(ValueError, match="cannot cast a bitsandbytes model"):
        ours.to(torch.float16)
    wanted = dict(theirs.named_parameters())
    assert wanted.keys() == dict(ours.named_parameters()).keys()
    for name, parameter in ours.named_parameters():
        assert torch.equal(parameter, wanted[name]) and parameter.dtype == wanted[name].dtype, name
        if parameter.dtype == torch.int8:
            assert type(parameter) is Int8Params and not parameter.requires_grad
            assert torch.equal(parameter.SCB, wanted[name].SCB)
    ids = torch.arange(16, 48)[None]
    with torch.no_grad():
        assert torch.equal(ours(ids).logits, theirs(ids).logits)
