"""How new rows start: each initialiser by its definition, old rows untouched, draws that a seed repeats."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForCausalLM

from zhuzi import Tokenizer, extend_model
from zhuzi.cli import cli
from zhuzi.errors import InputError
from zhuzi.model.folder import EMBEDDING, HEAD, ModelFolder
from zhuzi.model.initial import INITS, Init, initialiser, mean_row


def by_definition(
    init: Init, seed: int, old: torch.Tensor, name: str, parts: list[list[int]]
) -> torch.Tensor:
    """The new rows in fp64, as plainly as they can be computed."""
    rows = old.double()
    if init == "zero":
        return torch.zeros(len(parts), rows.shape[1], dtype=torch.float64)
    if init == "mean":
        return rows.mean(0).repeat(len(parts), 1)
    if init == "subword-mean":
        return torch.stack([rows[ids].mean(0) for ids in parts])
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    draws = torch.stack([torch.randn(len(rows), generator=generator) for _ in parts]).double()
    return rows.mean(0) + draws @ (rows - rows.mean(0)) / len(rows) ** 0.5


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize(("tied", "dtype"), [(False, "bfloat16"), (True, "float16"), (False, "float32")])
def test_rows_are_those_of_the_definition(
    make_model: Callable[..., Path], new_tokenizer: Path, tmp_path: Path, init: Init, tied: bool, dtype: str
) -> None:
    """416 rows of which 400 are trained: rows 400 to 409 are new, the padding behind them stays."""
    base = ModelFolder.open(make_model(tmp_path / "base", rows=416, dtype=dtype, tie_word_embeddings=tied))
    report = extend_model(base.path, new_tokenizer, tmp_path / "out", init=init, seed=3, pad_to_multiple=32)
    made, new = ModelFolder.open(tmp_path / "out"), Tokenizer.from_dir(new_tokenizer)
    assert (report.init, report.seed) == (init, 3 if init == "normal" else None)
    assert (report.new_rows, report.initialised, report.padding) == (416, 10, 6)
    parts = [base.tokenizer.encode_piece(new.id_to_token(id)) for id in range(400, 410)]
    for name in base.tensors:
        old, rows = base.read(name).to(made.dtype), made.read(name)
        if name not in (EMBEDDING, HEAD):
            assert torch.equal(rows, old), name
            continue
        assert torch.equal(rows[:400], old[:400]) and torch.equal(rows[410:], old[410:])
        wanted = by_definition(init, 3, old[:400], name, parts)
        assert torch.equal(rows[400:410], wanted.to(made.dtype)), name
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert tied == (loaded.lm_head.weight is loaded.model.embed_tokens.weight)
    record = json.loads((tmp_path / "out" / "zhuzi.json").read_text())
    assert (record["init"], record.get("seed")) == (report.init, report.seed)
    if not tied and init == "normal":  # draws of their own
        assert not torch.equal(made.read(EMBEDDING)[400:410], made.read(HEAD)[400:410])


def test_a_head_that_is_stored_though_it_is_tied(
    make_stored_twice: Callable[..., Path],
    make_model: Callable[..., Path],
    new_tokenizer: Path,
    tmp_path: Path,
) -> None:
    """Both copies get the same rows, whatever is drawn; two matrices are not taken for one."""
    extend_model(make_stored_twice(tmp_path / "base"), new_tokenizer, tmp_path / "out", init="normal")
    made = ModelFolder.open(tmp_path / "out")
    assert made.tied and torch.equal(made.read(EMBEDDING), made.read(HEAD))

    untied = make_model(tmp_path / "untied", tie_word_embeddings=False)
    config = json.loads((untied / "config.json").read_text())
    (untied / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    with pytest.raises(InputError, match=r"untied: config.json ties lm_head.weight .* values differ"):
        extend_model(untied, new_tokenizer, tmp_path / "no")


def test_draws_follow_from_the_seed(base_model: Path, new_tokenizer: Path, tmp_path: Path) -> None:
    made = [
        extend_model(base_model, new_tokenizer, tmp_path / str(i), init="normal", seed=seed).out
        for i, seed in enumerate([1, 1, 2])
    ]
    first, again, other = (ModelFolder.open(folder).fingerprint for folder in made)
    assert first == again != other


def test_draws_have_the_mean_and_the_covariance() -> None:
    generator = torch.Generator().manual_seed(0)
    old = torch.randn(300, 5, generator=generator) @ torch.randn(5, 5, generator=generator) + 2
    count = 20_000
    rows = initialiser("normal", 0, old, EMBEDDING)([[]] * count)
    covariance = torch.cov(old.T.double(), correction=0)
    deviation = covariance.diag().sqrt()
    assert ((rows.mean(0) - mean_row(old)).abs() < 4 * deviation / count**0.5).all()
    error = (torch.cov(rows.T) - covariance).abs() / (deviation[:, None] * deviation)
    assert float(error.max()) < 4 * (2 / count) ** 0.5


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole, and in blocks of seven: the same rows, but for the last bits of a sum."""
    old = torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
    parts = [[i, 99 - i] for i in range(20)]
    for init in INITS:
        whole = initialiser(init, 0, old, EMBEDDING)(parts)
        with monkeypatch.context() as patched:
            patched.setattr("zhuzi.model.initial.BLOCK", 7)
            start = initialiser(init, 0, old, EMBEDDING)
            cut = torch.cat([start(parts[:9]), start(parts[9:])])
        assert torch.allclose(whole, cut, rtol=1e-12, atol=1e-12), init


def test_the_command(make_model: Callable[..., Path], new_tokenizer: Path, tmp_path: Path) -> None:
    base = make_model(tmp_path / "base")
    (base / "added_tokens.json").write_text(json.dumps({"<pad>": 400}))  # without a row
    command = ["model", "extend", "--model", str(base), "--tokenizer", str(base), "--init", "zero"]
    done = CliRunner().invoke(cli, [*command, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "'<pad>' had no row in the base; it starts as a new token does\n" in done.stdout
    assert not ModelFolder.open(tmp_path / "out").read(EMBEDDING)[400].any()
    with pytest.raises(ValueError, match=r"init: want subword-mean, mean, normal or zero, not 'random'"):
        extend_model(base, new_tokenizer, tmp_path / "other", init="random")  # type: ignore[arg-type]
