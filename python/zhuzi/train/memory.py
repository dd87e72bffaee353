"""What a run holds in memory, computed from the shape of its model and its recipe: no weights, no torch.

Parameters are exact. Activations are what the layers of transformers, PEFT and this package keep for
backward, counted tensor by tensor; the peak is that of the fullest moment of a step. Compared with torch's
measured peaks in `tests/training/test_plan.py`, and with what the code holds in `test_plan_simulated.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from zhuzi.train.recipe import LoraRecipe, Recipe
from zhuzi.train.shape import Shape
from zhuzi.train.sharding import gradient_bucket, zero_stage

#: fp32 logits that are in memory at a time; `zhuzi.train.loss` allocates them.
CHUNK_BYTES = 64 << 20

# bitsandbytes: weights per scale of NF4, scales per scale of the scales, and the tables of a matrix.
_NF4_BLOCK, _NF4_NESTED, _NF4_TABLES = 64, 256, 4 * 16 + 4 * 256 + 4
# bitsandbytes' 8-bit AdamW: elements per pair of fp32 scales; smaller tensors keep fp32 moments; two tables.
_OPTIMISER_BLOCK, _OPTIMISER_LEAST, _OPTIMISER_TABLES = 256, 4096, 2 * 4 * 256


@dataclass(frozen=True)
class Memory:
    """Bytes of each part on one device, at the fullest moment of a step."""

    weights: int  # frozen: the base, with the scales of quantised matrices, and its old rows
    adapters: int  # what trains, in fp32: LoRA (on a GPU also in 16 bits), embedding and head or new rows
    gradients: int
    optimiser: int
    activations: int
    logits: int  # and what else the loss holds while it is computed

    @property
    def fixed(self) -> int:
        """What is there between two steps."""
        return self.weights + self.adapters + self.optimiser

    @property
    def peak(self) -> int:
        """All of it."""
        return self.fixed + self.gradients + self.activations + self.logits


@dataclass(frozen=True)
class Parts:
    """What a recipe makes of a model: which of its tensors train, and how the others are stored."""

    shape: Shape
    recipe: Recipe
    old_rows: int  # leading rows of embedding and head that do not train; 0 where all do
    gpu: bool  # computes in 16 bits; a CPU in fp32

    @property
    def matrices(self) -> tuple[str, ...]:
        """Embedding and head, as far as they train. A tied head is the embedding."""
        named = self.recipe.modules_to_save
        return ("embed_tokens",) if self.shape.tied and named else named

    @property
    def head(self) -> int:
        """Elements of the head that train."""
        trains = "embed_tokens" if self.shape.tied else "lm_head"
        return (self.shape.rows - self.old_rows) * self.shape.hidden if trains in self.matrices else 0

    def trained(self) -> Iterator[int]:
        """Elements of each tensor that trains."""
        yield from self.in_matrices()
        lora, matrices = self.recipe.lora, self.shape.matrices
        for target in () if lora is None else lora.targets:
            rows, columns = self._adapted(target, matrices)
            for _ in range(1 if target == "lm_head" else self.shape.layers):
                assert lora is not None
                yield lora.rank * columns
                yield lora.rank * rows
                if lora.dora:
                    yield rows

    def _adapted(self, target: str, matrices: dict[str, tuple[int, int]]) -> tuple[int, int]:
        return (self.shape.rows, self.shape.hidden) if target == "lm_head" else matrices[target]

    def in_matrices(self) -> list[int]:
        """Elements that train of embedding and head."""
        return [(self.shape.rows - self.old_rows) * self.shape.hidden for _ in self.matrices]

    @property
    def trainable(self) -> int:
        """Parameters that train."""
        return sum(self.trained())

    @property
    def parameters(self) -> int:
        """All parameters, LoRA's included."""
        return self.shape.parameters + self.trainable - sum(self.in_matrices())

    @property
    def number(self) -> int:
        """Bytes of a computed number."""
        return 2 if self.gpu else 4

    def weights(self) -> int:
        """Bytes of what is frozen."""
        shape, bits = self.shape, self.recipe.base_bits
        whole = 1 if shape.tied else 2
        frozen = whole * shape.vocabulary
        frozen -= sum(self.in_matrices())
        each = [quantised_bytes(rows, columns, bits) for rows, columns in shape.matrices.values()]
        linear = shape.layers * sum(each) if bits < 16 else self.number * shape.linear
        return linear + self.number * (frozen + shape.small)

    def optimiser(self) -> int:
        """Bytes of AdamW's moments. The paged ones move to the computer's memory when a GPU is full."""
        kind = self.recipe.optimizer
        if kind == "adamw":
            return sum(8 * n + 4 for n in self.trained())
        if kind == "paged-adamw-8bit" and self.gpu:
            return 0
        large = [n for n in self.trained() if n >= _OPTIMISER_LEAST]
        small = sum(8 * n for n in self.trained() if n < _OPTIMISER_LEAST)
        blocks = sum(2 * n + 8 * math.ceil(n / _OPTIMISER_BLOCK) for n in large)
        return small + blocks + (_OPTIMISER_TABLES if large else 0)


def quantised_bytes(rows: int, columns: int, bits: int) -> int:
    """Bytes of a matrix as bitsandbytes keeps it in 8 or 4 bits, with its scales."""
    size = rows * columns
    if bits == 8:
        return size + 4 * rows
    blocks = math.ceil(size / _NF4_BLOCK)
    return math.ceil(size / 2) + blocks + 4 * math.ceil(blocks / _NF4_NESTED) + _NF4_TABLES


@dataclass(frozen=True)
class _Held:
    """Bytes that one of several devices holds, by what the recipe divides among them."""

    weights: int
    adapters: int
    gradients: int  # what stays of them between forwards, and until the step
    buckets: int  # what is exchanged at a time
    optimiser: int
    stepping: int = 0  # gradients that the step itself needs


def _held(parts: Parts, gpus: int) -> _Held:
    recipe, trained = parts.recipe, 4 * parts.trainable
    casts = 2 * (parts.trainable - sum(parts.in_matrices())) if parts.gpu else 0
    weights, adapters, optimiser = parts.weights(), trained + casts, parts.optimiser()
    if gpus == 1:
        return _Held(weights, adapters, trained, 0, optimiser)
    if recipe.deepspeed is not None:
        stage, bucket = zero_stage(recipe), 4 * gradient_bucket(recipe, parts.shape.hidden)
        gradients = math.ceil(trained / gpus) if stage == 2 else trained
        # A share of the weights is there twice, and at the step that of the gradients too.
        share = math.ceil((trained + optimiser) / gpus)
        return _Held(weights, adapters, gradients, bucket, share, gradients + math.ceil(trained / gpus))
    if recipe.fsdp:
        # Embedding, head and norm are gathered whole, and two layers: one is computed, one is on its way.
        whole = (1 if parts.shape.tied else 2) * parts.shape.vocabulary - sum(parts.in_matrices())
        layer = 2 * parts.number * parts.shape.linear // parts.shape.layers
        lora = trained - 4 * sum(parts.in_matrices())
        gathered = 4 * sum(parts.in_matrices()) + 2 * lora // parts.shape.layers
        return _Held(
            weights=math.ceil(weights / gpus) + parts.number * whole + layer,
            adapters=math.ceil(trained / gpus) + gathered,
            gradients=math.ceil(trained / gpus),
            buckets=4 * max([*parts.in_matrices(), lora // 4 // parts.shape.layers]),
            optimiser=math.ceil(optimiser / gpus),
        )
    return _Held(weights, adapters, trained, trained, optimiser)


def memory_of(parts: Parts, *, micro: int, accumulated: bool, gpus: int) -> Memory:
    """The memory of one device.

    Args:
        micro: sequences of `sequence_length` tokens in a forward.
        accumulated: whether a step has several forwards, so that gradients stay between them.
        gpus: with more than one, DistributedDataParallel keeps a copy of the gradients to exchange; or each
            holds its share of what `deepspeed` or `fsdp` divides.
    """
    tokens, held = micro * parts.recipe.sequence_length, _held(parts, gpus)
    layer, kept = _layer(parts, tokens), _kept(parts, tokens)
    width, number = parts.shape.hidden, parts.number
    gradients, buckets = held.gradients, held.buckets
    of_head = 4 * parts.head
    before = buckets + (gradients if accumulated else 0)
    divided = gradients < 4 * parts.trainable  # a matrix's own gradient is then whole beside it
    last = 4 * width * tokens  # the gradient of the last hidden states, in fp32
    # The moments: while the loss is computed, at the start of backward, at its end, and the step where ZeRO
    # copies gradients. Each gives the gradients, the activations and what the loss holds.
    loss = (before + of_head, kept + last + 4 * width * tokens, _logits(parts, tokens))
    tied = parts.shape.tied and of_head > 0  # the head's gradient waits for the embedding's, to the end
    new_head = 0 if accumulated and not divided and not tied else of_head  # 0: it is added at once
    begin = (before + new_head, kept + _working(parts, tokens, layer), 0)
    embedded = 4 * (parts.shape.rows - parts.old_rows) * width if "embed_tokens" in parts.matrices else 0
    more = (accumulated or divided) + tied  # gradients of the embedding beside that in `gradients`
    end = (buckets + gradients + more * embedded, 2 * number * width * tokens, 0)
    fullest = max((loss, begin, end, (held.stepping, 0, 0)), key=sum)
    return Memory(held.weights, held.adapters, fullest[0], held.optimiser, *fullest[1:])


def _kept(parts: Parts, tokens: int) -> int:
    """Bytes that all layers keep for backward."""
    shape, recipe = parts.shape, parts.recipe
    if not recipe.gradient_checkpointing:
        return shape.layers * _layer(parts, tokens)
    return shape.layers * tokens * shape.hidden * parts.number


def _layer(parts: Parts, tokens: int) -> int:
    """Bytes that one layer keeps for its backward; frozen matrices keep nothing of their input."""
    shape, recipe, number = parts.shape, parts.recipe, parts.number
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    # Two norms, in fp32, with their reciprocal deviations; queries, keys, values and the attention's output,
    # with the logarithm of its sums; gate, SiLU, up.
    norms = 2 * 4 * (shape.hidden + 1)
    attention = number * (2 * queries + 2 * keys) + 4 * shape.heads
    mlp = number * 3 * shape.inner
    each = norms + attention + mlp
    if shape.qk_norm:
        each += 4 * (queries + keys)
    whole = _masks(parts, tokens)
    if recipe.lora is not None:
        each += _lora_inputs(parts, recipe.lora)
        if recipe.lora.dora and recipe.lora.dropout:  # its product of the dropped input keeps its matrix
            whole += sum(number * math.prod(shape.matrices[target]) for target in _targets(parts))
    return each * tokens + whole


def _targets(parts: Parts) -> list[str]:
    """The matrices of a layer that LoRA adapts."""
    lora = parts.recipe.lora
    return [] if lora is None else [target for target in lora.targets if target in parts.shape.matrices]


def _lora_inputs(parts: Parts, lora: LoraRecipe) -> int:
    """Bytes per token that the adapters of a layer keep: their inputs, dropped out, and masks."""
    shape, number = parts.shape, parts.number
    targets = _targets(parts)
    inner = sum(number * lora.rank for _ in targets)
    if lora.dora:  # the products of base and adapter, for the gradient of the magnitude
        inner += sum(2 * number * shape.matrices[target][0] for target in targets)
        if not lora.dropout:  # each adapter casts the input for itself
            return inner + sum(number * shape.matrices[target][1] for target in targets)
    if lora.dropout:
        # A GPU keeps a mask of bytes, a CPU one of numbers.
        mask = 1 if parts.gpu else number
        return inner + sum((number + mask) * shape.matrices[target][1] for target in targets)
    widths = {"attention": {"q_proj", "k_proj", "v_proj"}, "mlp": {"gate_proj", "up_proj"}}
    shared = sum(shape.hidden for names in widths.values() if names & set(targets))
    shared += shape.inner if "down_proj" in targets else 0  # the attention's output is kept anyway
    return inner + number * shared


def _masks(parts: Parts, tokens: int) -> int:
    """Bytes of the attention's mask in a layer, where sequences are padded or packed."""
    if parts.recipe.task == "pretrain":
        return 0
    return tokens * parts.recipe.sequence_length * (parts.number + 1)


def _working(parts: Parts, tokens: int, layer: int) -> int:
    """Bytes that the backward of a layer needs: what is computed again, gradients, a dequantised matrix."""
    shape, number = parts.shape, parts.number
    again = layer if parts.recipe.gradient_checkpointing else 0
    passing = number * (3 * shape.inner + 2 * shape.hidden) * tokens
    matrix = number * max(map(math.prod, shape.matrices.values())) if parts.recipe.base_bits < 16 else 0
    lora = parts.recipe.lora
    if lora is not None and lora.dora:  # products of base and adapter, scaled in fp32, sums and gradients
        widest = max((shape.matrices[target][0] for target in _targets(parts)), default=0)
        passing = max(passing, 7 * 4 * widest * tokens)
    return again + passing + matrix


def _logits(parts: Parts, tokens: int) -> int:
    """Bytes of the chunk of logits and of what the chunked loss computes with it."""
    shape, number, lora = parts.shape, parts.number, parts.recipe.lora
    if lora is not None and "lm_head" in lora.targets:  # all at once: with their softmax and their gradient
        return 3 * 4 * shape.rows * tokens
    chunk = min(CHUNK_BYTES, 4 * shape.rows * tokens)
    states = number * shape.hidden * tokens
    if not parts.gpu:
        return chunk + states
    rounded = chunk // 2 + number * parts.head
    return chunk + rounded + states + number * parts.head  # and a product before it is added
