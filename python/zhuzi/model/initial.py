"""How the rows of new tokens start, in embedding and head.

- `subword-mean`: the mean of the old rows of the piece's old tokens. FVT (Gee et al. 2022,
  EMNLP Industry), Swallow (Fujii et al. 2404.17790), Mundra et al. (2407.05841).
- `mean`: the mean of all old rows. Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language
  Models", who shows why: a new token is then never likelier than the average old one.
- `normal`: a draw from the normal distribution with the mean and the covariance of the old rows. Hewitt 2021;
  "multivariate" in Mundra et al.
- `zero`: a baseline. In a head its logits are 0 in every context, which may be above those of all old tokens.

Everything is computed in fp64 over the rows as stored, then rounded once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    import torch

#: Names of the initialisers.
Init = Literal["subword-mean", "mean", "normal", "zero"]
INITS: tuple[Init, ...] = get_args(Init)

#: Rows that are converted to fp64 at a time.
BLOCK = 2048

#: Ids whose rows to start, each as the old ids of its tokens -> their rows, [ids, hidden size] in fp64.
Start = Callable[[Sequence[Sequence[int]]], "torch.Tensor"]


def initialiser(init: Init, seed: int, old: torch.Tensor, name: str) -> Start:
    """What gives a matrix its new rows; to be called for all of them in the order of their ids.

    Args:
        seed: of `normal`. Each matrix has draws of its own: they depend on `seed` and its `name`.
        old: the trained rows, [rows, hidden size].
    """
    if init == "subword-mean":
        return lambda parts: _means_of(old, parts)
    if init == "normal":
        return _normal(old, seed, name)
    row = mean_row(old) if init == "mean" else old.new_zeros(old.shape[1]).double()
    return lambda parts: row.expand(len(parts), -1)


def mean_row(old: torch.Tensor) -> torch.Tensor:
    """The mean of the rows, in fp64."""
    import torch

    total = torch.zeros(old.shape[1], dtype=torch.float64)
    for block in old.split(BLOCK):
        total += block.double().sum(0)
    return total / len(old)


def _means_of(old: torch.Tensor, parts: Sequence[Sequence[int]]) -> torch.Tensor:
    import torch

    flat = torch.tensor([id for ids in parts for id in ids])
    lengths = torch.tensor([len(ids) for ids in parts])
    used, places = flat.unique(return_inverse=True)
    return torch.nn.functional.embedding_bag(
        places, old[used].double(), lengths.cumsum(0) - lengths, mode="mean"
    )


def _normal(old: torch.Tensor, seed: int, name: str) -> Start:
    """Draws from N(mean, covariance) without the covariance.

    With z of n independent standard normals, mean + sum z_i (row_i - mean) / sqrt(n) has exactly this
    distribution, of whatever rank the covariance is.
    """
    import torch

    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    mean = mean_row(old)

    def start(parts: Sequence[Sequence[int]]) -> torch.Tensor:
        draws = [torch.randn(len(old), generator=generator) for _ in parts]
        weights = torch.stack(draws).double() / len(old) ** 0.5
        rows = mean.repeat(len(parts), 1)
        for at in range(0, len(old), BLOCK):
            rows += weights[:, at : at + BLOCK] @ (old[at : at + BLOCK].double() - mean)
        return rows

    return start
