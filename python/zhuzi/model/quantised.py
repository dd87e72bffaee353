"""How the linear layers of a model are quantised while it is loaded: bitsandbytes' int8 or NF4.

transformers (5.24) takes each 16-bit matrix that is to become int8 from the GPU back to the CPU, casts it
there, and sends it to the GPU again, where it is quantised. Here it is quantised where it is. On a CPU
bitsandbytes goes over a whole matrix several times; here it is given a few rows at a time, which stay in the
cache. What is stored is the same to the bit.
"""

from __future__ import annotations

from typing import Any

import torch
from bitsandbytes.functional import int8_vectorwise_quant
from bitsandbytes.nn import Int8Params
from transformers import BitsAndBytesConfig
from transformers.integrations.bitsandbytes import Bnb4bitQuantize, Bnb8bitQuantize
from transformers.quantizers import register_quantizer
from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer
from transformers.quantizers.quantizer_bnb_8bit import Bnb8BitHfQuantizer
from transformers.utils.quantization_config import QuantizationMethod

from zhuzi.model.memory import out_of_memory_passes

_INT8, _NF4 = "zhuzi-int8", "zhuzi-nf4"  # our names for them among transformers' ways to quantise
_PART = 1 << 18  # elements quantised at a time on a CPU: 0.5 MiB in 16 bits, and 1 MiB of fp32 beside it


def quantisation(bits: int, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """What `from_pretrained` takes as `quantization_config` for 8 or 4 bits; none for 16.

    `dtype`: what is computed in. The loaded model is one that bitsandbytes quantised, to transformers too.
    """
    if bits not in (8, 4):
        return None
    config = BitsAndBytesConfig(
        load_in_8bit=bits == 8,
        load_in_4bit=bits == 4,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=["lm_head", "embed_tokens"],  # these never are quantised
    )
    config.quant_method = _INT8 if bits == 8 else _NF4
    return config


def quantise(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Int8 rows [out, in] and their absolute maxima [out], on the device of a matrix [out, in].

    Bit-equal to bitsandbytes' `Int8Params`, which rounds a matrix to fp16 first.
    """
    if matrix.device.type != "cpu":
        rows, scales, _ = int8_vectorwise_quant(matrix.contiguous().to(torch.float16))
        return rows, scales
    rows = torch.empty(matrix.shape, dtype=torch.int8)
    scales = torch.empty(len(matrix))
    length = max(1, _PART // matrix.shape[1])
    for begin in range(0, len(matrix), length):
        part = slice(begin, begin + length)
        rows[part], scales[part], _ = int8_vectorwise_quant(matrix[part].to(torch.float16))
    return rows, scales


class _ToInt8(Bnb8bitQuantize):  # type: ignore[misc]  # transformers has no types
    def convert(self, input_dict: dict[str, Any], **_: Any) -> dict[str, Int8Params]:
        made = {}
        with out_of_memory_passes():
            for name, given in input_dict.items():
                rows, scales = quantise(given[0] if isinstance(given, list) else given)
                made[name] = Int8Params(rows, requires_grad=False, CB=rows, SCB=scales)
        return made


class _ToNf4(Bnb4bitQuantize):  # type: ignore[misc]
    def convert(self, *given: Any, **named: Any) -> Any:
        with out_of_memory_passes():
            return super().convert(*given, **named)


class _Loaded:
    """What is put before transformers' class of a quantiser."""

    def _process_model_after_weight_loading(self: Any, model: Any, **named: Any) -> Any:
        # From here it is bitsandbytes' own: to transformers' guards, and in what is saved.
        model.quantization_method = self.quantization_config.quant_method = QuantizationMethod.BITS_AND_BYTES
        return super()._process_model_after_weight_loading(model, **named)  # type: ignore[misc]


@register_quantizer(_INT8)
class _Int8Quantiser(_Loaded, Bnb8BitHfQuantizer):  # type: ignore[misc]
    def get_quantize_ops(self) -> _ToInt8:
        return _ToInt8(self)


@register_quantizer(_NF4)
class _Nf4Quantiser(_Loaded, Bnb4BitHfQuantizer):  # type: ignore[misc]
    def get_quantize_ops(self) -> _ToNf4:
        return _ToNf4(self)
