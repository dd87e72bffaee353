"""Extending a model: rows by hand, old rows untouched, and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from tiny import CHINESE, append_pieces
from transformers import AutoModelForCausalLM

import zhuzi
from protobuf import NORMAL
from random_models import model as model_of
from zhuzi import Tokenizer
from zhuzi.cli import cli
from zhuzi.errors import InputError, MismatchError, OutputExistsError, ZhuziError
from zhuzi.hf import ZhuziTokenizer
from zhuzi.model.extend import extend_model
from zhuzi.model.folder import EMBEDDING, HEAD, ModelFolder

MATRICES = [EMBEDDING, HEAD]


@pytest.mark.parametrize("name", MATRICES)
def test_three_rows_by_hand(base_model: Path, model: Path, old_tokenizer: Path, name: str) -> None:
    old, new = ModelFolder.open(base_model).read(name), ModelFolder.open(model).read(name)
    ids = Tokenizer.from_dir(old_tokenizer).token_to_id
    for piece, parts in {
        "天": [f"<0x{b:02X}>" for b in "天".encode()],
        "你好": [f"<0x{b:02X}>" for b in "你好".encode()],
        "▁好": ["▁", *(f"<0x{b:02X}>" for b in "好".encode())],
    }.items():
        rows = torch.stack([old[ids(part)] for part in parts]).double()
        row = new[400 + CHINESE.index(piece)]
        assert torch.equal(row, rows.mean(0).to(torch.float16)), piece


def test_added_token_starts_as_the_mean_of_its_text(
    base_model: Path, model: Path, old_tokenizer: Path
) -> None:
    old, new = ModelFolder.open(base_model).read(EMBEDDING), ModelFolder.open(model).read(EMBEDDING)
    ids = Tokenizer.from_dir(old_tokenizer).encode_piece("[PAD]")
    assert len(ids) > 1
    assert torch.equal(new[-1], old[ids].double().mean(0).half())


def test_all_else_is_bit_identical(base_model: Path, model: Path) -> None:
    base, extended = ModelFolder.open(base_model), ModelFolder.open(model)
    assert base.tensors.keys() == extended.tensors.keys()
    for name in base.tensors:
        assert torch.equal(base.read(name), extended.read(name)[: base.tensors[name].shape[0]]), name
        assert extended.tensors[name].shape[0] == base.tensors[name].shape[0] + 10 * (name in MATRICES)


def test_folder_loads_in_plain_transformers(model: Path) -> None:
    loaded = AutoModelForCausalLM.from_pretrained(model)
    assert loaded.config.vocab_size == loaded.get_input_embeddings().weight.shape[0] == 410
    assert loaded.dtype == torch.float16
    assert (loaded.config.bos_token_id, loaded.config.pad_token_id) == (1, 409)
    assert loaded.generation_config.pad_token_id == 409
    assert json.loads((model / "zhuzi.json").read_text())["rows"] == 410
    assert Tokenizer.from_dir(model).vocab_size == 410


@pytest.mark.parametrize("tied", [False, True])
def test_files_and_tied_heads(
    make_model: Callable[..., Path], new_tokenizer: Path, tmp_path: Path, tied: bool
) -> None:
    """Weights over several files, and a head that is the embedding."""
    base = ModelFolder.open(make_model(tmp_path / "base", tie_word_embeddings=tied, dtype="bfloat16"))
    assert len({info.file for info in base.tensors.values()}) > 1
    report = extend_model(base.path, new_tokenizer, tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert report.tied == tied == (loaded.lm_head.weight is loaded.model.embed_tokens.weight)
    assert torch.equal(loaded.model.embed_tokens.weight[:400], base.read(EMBEDDING))
    assert loaded.lm_head.weight.shape[0] == 410


def test_padding_rows_become_pieces(
    make_model: Callable[..., Path], new_tokenizer: Path, tmp_path: Path
) -> None:
    """A base with 404 rows and 400 ids: rows 400 to 403 start like new ones."""
    base = ModelFolder.open(make_model(tmp_path / "base", rows=404))
    report = extend_model(base.path, new_tokenizer, tmp_path / "out")
    old, new = base.read(EMBEDDING), ModelFolder.open(tmp_path / "out").read(EMBEDDING)
    assert (report.old_rows, report.new_rows, report.initialised) == (404, 410, 10)
    assert torch.equal(old[:400], new[:400])
    assert torch.equal(new[400], old[base.tokenizer.encode_piece(CHINESE[0])].double().mean(0).half())


@pytest.fixture
def chat_base(make_model: Callable[..., Path], tmp_path: Path) -> Path:
    """402 rows, the last two of `<a>` and `<b>`, which only tokenizer.json names (transformers 5 does so)."""
    base = make_model(tmp_path / "chat-base", rows=402)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "eos_token_id": [401, 2]}))
    added = [{"id": 400, "content": "<a>"}, {"id": 401, "content": "<b>"}]
    (base / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": added}))
    generation = {"eos_token_id": [2, 401], "suppress_tokens": [400], "max_new_tokens": 400}
    (base / "generation_config.json").write_text(json.dumps(generation))
    return base


def test_trained_rows_of_added_tokens_are_not_lost(
    chat_base: Path, new_tokenizer: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(
        MismatchError, match=r"id 400 is '<a>' .* would be lost; .*vocab merge --base .*chat-base"
    ):
        extend_model(chat_base, new_tokenizer, tmp_path / "out")

    moving = tmp_path / "moving"
    tokens = ["[PAD]", "<a>", "<b>"]
    Tokenizer((new_tokenizer / "tokenizer.model").read_bytes(), added_tokens=tokens).save(moving)
    with pytest.raises(MismatchError, match="would be lost"):  # no record says where the rows are to go
        extend_model(chat_base, moving, tmp_path / "out")
    table = {"<a>": {"from": 400, "to": 410}, "<b>": {"from": 401, "to": 411}}
    for wrong in ({**table, "<b>": {"from": 401, "to": 410}}, {"<a>": table["<a>"]}):
        (moving / "zhuzi.json").write_text(json.dumps({"zhuzi": "0", "moved_tokens": wrong}))
        with pytest.raises(MismatchError, match="id 401 is '<b>'"):
            extend_model(chat_base, moving, tmp_path / "out")
    (moving / "zhuzi.json").write_text(json.dumps({"zhuzi": "0", "moved_tokens": {"<a>": 400}}))
    with pytest.raises(InputError, match="moved_tokens is not a table"):
        extend_model(chat_base, moving, tmp_path / "out")

    (moving / "zhuzi.json").write_text(json.dumps({"zhuzi": "0", "moved_tokens": table}))
    (chat_base / "chat_template.jinja").write_text("{{ messages }}")
    report = extend_model(chat_base, moving, tmp_path / "out")
    assert "its chat template is left out" in caplog.text
    assert report.moved == {"<a>": (400, 410), "<b>": (401, 411)}
    assert (report.old_rows, report.new_rows, report.initialised, report.padding) == (402, 412, 10, 0)
    base, made = ModelFolder.open(chat_base), ModelFolder.open(tmp_path / "out")
    for name in MATRICES:
        old, new = base.read(name), made.read(name)
        assert torch.equal(new[:400], old[:400]) and torch.equal(new[410:], old[400:])
        assert torch.equal(new[400], old[base.tokenizer.encode_piece(CHINESE[0])].double().mean(0).half())
    assert (made.config["eos_token_id"], made.config["bos_token_id"]) == ([411, 2], 1)
    generation = json.loads((made.path / "generation_config.json").read_text())
    assert (generation["eos_token_id"], generation["suppress_tokens"]) == ([2, 411], [410])
    assert (generation["max_new_tokens"], generation["pad_token_id"]) == (400, 409)
    assert json.loads((made.path / "zhuzi.json").read_text())["moved_tokens"] == table


def test_added_tokens_that_keep_their_ids_keep_their_rows(chat_base: Path, tmp_path: Path) -> None:
    """`vocab merge --added-tokens keep` makes them pieces of the model: no row moves, and chats find them."""
    donor = tmp_path / "donor.model"
    pieces = [(text, -float(i), NORMAL) for i, text in enumerate(CHINESE)]
    donor.write_bytes(model_of(pieces, byte_fallback=True, dummy_prefix=True, trims=False, charsmap=b""))
    merged = zhuzi.merge_vocab(
        chat_base, donor, tmp_path / "merged", policy="ordered", added_tokens="keep", add_tokens=["[PAD]"]
    )
    assert merged.kept == {"<a>": 400, "<b>": 401} and not merged.moved
    report = extend_model(chat_base, merged.folder, tmp_path / "out")
    assert report.moved == {}
    assert (report.old_rows, report.new_rows, report.initialised) == (
        402,
        403 + len(CHINESE),
        1 + len(CHINESE),
    )
    base, made = ModelFolder.open(chat_base), ModelFolder.open(tmp_path / "out")
    for name in MATRICES:
        old, new = base.read(name), made.read(name)
        assert torch.equal(new[:402], old)
        assert torch.equal(new[402], old[base.tokenizer.encode_piece(CHINESE[0])].double().mean(0).half())
    assert made.config["eos_token_id"] == [401, 2]
    generation = json.loads((made.path / "generation_config.json").read_text())
    assert (generation["eos_token_id"], generation["suppress_tokens"]) == ([2, 401], [400])
    assert (made.tokenizer.token_to_id("<a>"), made.tokenizer.token_to_id(CHINESE[0])) == (400, 402)
    assert made.tokenizer.added_tokens == ("[PAD]",)
    assert not {400, 401} & set(made.tokenizer.encode("<a>天<b>"))
    chats = ZhuziTokenizer.from_pretrained(made.path)
    found = chats("<a>天<b>", split_special_tokens=False, add_special_tokens=False)["input_ids"]
    assert found == [400, *made.tokenizer.encode("天"), 401]


def test_a_token_without_a_row(make_model: Callable[..., Path], new_tokenizer: Path, tmp_path: Path) -> None:
    """LLaMA-2 as it is often passed on: <pad> has the id 32000, the embedding 32,000 rows."""
    base = make_model(tmp_path / "base")
    (base / "added_tokens.json").write_text(json.dumps({"<pad>": 400}))
    with pytest.raises(
        MismatchError, match=r"'<pad>' has the id 400, its embedding 400 rows; to give it one"
    ):
        ModelFolder.open(base).require_rows()
    report = extend_model(base, new_tokenizer, tmp_path / "out")
    assert (report.new_rows, report.initialised, report.left_out) == (410, 10, ("<pad>",))
    assert report.no_row == {}
    command = ["model", "extend", "--model", str(base), "--tokenizer", str(base)]
    said = CliRunner().invoke(cli, [*command, "--out", str(tmp_path / "said")])
    assert said.exit_code == 0
    own = extend_model(base, base, tmp_path / "own")  # as the message says
    assert (own.new_rows, own.initialised, own.left_out) == (401, 1, ())
    old = Tokenizer.from_dir(base)
    parts = tuple(map(old.id_to_token, old.encode_piece("<pad>")))
    assert own.no_row == {"<pad>": parts}
    line = "'<pad>' had no row in the base; it starts as the mean of the rows of "
    assert line + ", ".join(map(repr, parts)) in said.stdout.splitlines()
    ModelFolder.open(tmp_path / "own").require_rows()


@pytest.mark.parametrize("eos", [401, [401, 2]])
def test_ids_that_the_base_names_stay(
    make_model: Callable[..., Path], tmp_path: Path, eos: int | list[int]
) -> None:
    """A ChatML base whose tokens do not move: <|im_end|> ends a text, <pad> pads it."""
    base = make_model(tmp_path / "base", rows=402)
    (base / "added_tokens.json").write_text(json.dumps({"<pad>": 400, "<|im_end|>": 401}))
    config = json.loads((base / "config.json").read_text())
    named = {"eos_token_id": eos, "pad_token_id": 400}
    (base / "config.json").write_text(json.dumps({**config, "bos_token_id": None, **named}))
    extend_model(base, base, tmp_path / "out", pad_to_multiple=64)
    made = AutoModelForCausalLM.from_pretrained(tmp_path / "out").config
    assert (made.vocab_size, made.bos_token_id, made.eos_token_id, made.pad_token_id) == (448, 1, eos, 400)


def test_ids_that_are_no_tokens_are_replaced(
    make_model: Callable[..., Path], new_tokenizer: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """LLaMA as it was first converted: padded with -1, or with the unknown piece."""
    base = make_model(tmp_path / "base")
    (base / "added_tokens.json").write_text(json.dumps({"<|end|>": 400}))  # without a row
    for file, named in {
        "config.json": {"pad_token_id": -1, "eos_token_id": [2, 400]},
        "generation_config.json": {"pad_token_id": 0, "eos_token_id": 999},
    }.items():
        (base / file).write_text(json.dumps({**json.loads((base / file).read_text()), **named}))
    extend_model(base, new_tokenizer, tmp_path / "out")
    for file, eos in {"config.json": [2], "generation_config.json": [2]}.items():
        made = json.loads((tmp_path / "out" / file).read_text())
        assert (made["bos_token_id"], made["eos_token_id"], made["pad_token_id"]) == (1, eos, 409), file
    assert [record.message.removeprefix(f"{base}/") for record in caplog.records if record.levelno > 20] == [
        "config.json: eos_token_id is [2, 400], no token of the new model; it becomes [2]",
        "config.json: pad_token_id is -1, no token of the new model; it becomes 409",
        "generation_config.json: eos_token_id is 999, no token of the new model; it becomes [2]",
        "generation_config.json: pad_token_id is 0, the unknown piece; it becomes 409",
    ]


def test_padding_rows(make_model: Callable[..., Path], new_tokenizer: Path, tmp_path: Path) -> None:
    """A base padded to 416 rows keeps what the 410 ids do not need; others are padded on request."""
    base = ModelFolder.open(make_model(tmp_path / "base", rows=416))
    report = extend_model(base.path, new_tokenizer, tmp_path / "kept")
    assert (report.old_rows, report.new_rows, report.ids, report.padding) == (416, 416, 410, 6)
    kept = ModelFolder.open(tmp_path / "kept")
    assert kept.config["vocab_size"] == 416
    for name in MATRICES:
        old, new = base.read(name), kept.read(name)
        assert torch.equal(new[:400], old[:400]) and torch.equal(new[410:], old[410:])
        assert torch.equal(new[400], old[base.tokenizer.encode_piece(CHINESE[0])].double().mean(0).half())

    with pytest.raises(MismatchError, match=r"nothing to extend: .* 410 ids .*`pad_to_multiple`"):
        extend_model(kept.path, new_tokenizer, tmp_path / "out", pad_to_multiple=16)
    more = extend_model(kept.path, kept.path, tmp_path / "more", pad_to_multiple=64)
    assert (more.old_rows, more.new_rows, more.initialised, more.padding) == (416, 448, 0, 38)
    for name in MATRICES:
        old, new = kept.read(name), ModelFolder.open(tmp_path / "more").read(name)
        assert torch.equal(new[:416], old)
        assert (new[416:] == old[:410].double().mean(0).half()).all()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "more")
    assert loaded.get_input_embeddings().weight.shape[0] == 448
    with pytest.raises(ValueError, match="pad_to_multiple: want 1 or more"):
        extend_model(kept.path, kept.path, tmp_path / "out", pad_to_multiple=0)

    # Rows behind the ids may be those of a token that is named without an id, or of an id without a token:
    # they are not taken for padding.
    generation = base.path / "generation_config.json"
    held = json.loads(generation.read_text())
    generation.write_text(json.dumps({**held, "eos_token_id": [2, 400]}))
    with pytest.raises(MismatchError, match=r"generation_config\.json: eos_token_id is 400, which no file"):
        extend_model(base.path, new_tokenizer, tmp_path / "out")
    generation.write_text(json.dumps(held))
    (base.path / "special_tokens_map.json").write_text(json.dumps({"pad_token": {"content": "<pad>"}}))
    with pytest.raises(MismatchError, match=r"names the special token '<pad>', but no file gives its id"):
        extend_model(base.path, new_tokenizer, tmp_path / "out")


def test_fp32_base_is_rounded_first(
    make_model: Callable[..., Path], new_tokenizer: Path, tmp_path: Path
) -> None:
    base = ModelFolder.open(make_model(tmp_path / "base", dtype="float32"))
    for dtype in ("bfloat16", "float16"):
        report = extend_model(base.path, new_tokenizer, tmp_path / dtype, dtype=dtype)
        made = ModelFolder.open(tmp_path / dtype)
        assert report.dtype == dtype == made.config["dtype"]
        assert {info.dtype for info in made.tensors.values()} == {"BF16" if dtype == "bfloat16" else "F16"}
        old = base.read(EMBEDDING).to(made.dtype)
        assert torch.equal(made.read(EMBEDDING)[:400], old)
        ids = base.tokenizer.encode_piece(CHINESE[0])
        assert torch.equal(made.read(EMBEDDING)[400], old[ids].double().mean(0).to(made.dtype))


def test_refused(
    base_model: Path, model: Path, old_tokenizer: Path, new_tokenizer: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(MismatchError, match="never removed"):
        extend_model(model, old_tokenizer, out)
    with pytest.raises(MismatchError, match="nothing to extend"):
        extend_model(model, new_tokenizer, out)
    with pytest.raises(InputError, match="would change its old rows"):
        extend_model(base_model, new_tokenizer, out, dtype="bfloat16")

    other = tmp_path / "other"
    other.mkdir()
    changed = (new_tokenizer / "tokenizer.model").read_bytes().replace("▁the".encode(), "▁tha".encode())
    (other / "tokenizer.model").write_bytes(append_pieces(changed, ["山"]))
    first = Tokenizer.from_dir(old_tokenizer).token_to_id("▁the")
    with pytest.raises(MismatchError, match=rf"id {first} is '▁the'"):
        extend_model(base_model, other, out)

    assert not out.exists()
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(OutputExistsError):
        extend_model(base_model, new_tokenizer, out)
    with pytest.raises(OutputExistsError, match="not written by zhuzi"):
        extend_model(base_model, new_tokenizer, out, overwrite=True)
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
    made = tmp_path / "made"
    extend_model(base_model, new_tokenizer, made)
    extend_model(base_model, new_tokenizer, made, overwrite=True)
    for tokenizer, base in ((made, base_model), (new_tokenizer, made)):
        with pytest.raises(OutputExistsError, match="is read here"):
            extend_model(base, tokenizer, made, overwrite=True)


def test_bad_folders(
    base_model: Path, new_tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def damaged(name: str) -> Path:
        return Path(shutil.copytree(base_model, tmp_path / name))

    def refused(folder: Path | str, message: str) -> None:
        with pytest.raises(ZhuziError, match=message):
            extend_model(folder, new_tokenizer, tmp_path / "out")

    refused(tmp_path / "absent", "no such folder")
    refused("../owner/name", "no such folder")
    refused("owner/name", "does not give it .*; set HF_ENDPOINT")
    refused(new_tokenizer, "no config.json")
    truncated = damaged("truncated") / "model.safetensors"
    truncated.write_bytes(truncated.read_bytes()[:-1])
    refused(truncated.parent, "header promises")
    truncated.write_bytes(b"\xff" * 100)
    refused(truncated.parent, "not a safetensors file")
    truncated.rename(truncated.with_name("pytorch_model.bin"))
    refused(truncated.parent, "runs code")
    other = damaged("json-only")
    (other / "tokenizer.model").rename(other / "tokenizer.json")
    refused(other, "tokenizer")
    quantised = damaged("quantised") / "config.json"
    quantised.write_text(json.dumps({**json.loads(quantised.read_text()), "quantization_config": {}}))
    refused(quantised.parent, "quantised")


def test_a_hub_repository_of_pickles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *args, **options: str(tmp_path))
    monkeypatch.setattr(
        "huggingface_hub.list_repo_files", lambda name: ["config.json", "pytorch_model-00001-of-00002.bin"]
    )
    with pytest.raises(InputError, match=r"owner/name: holds only pytorch_model\.bin, a pickle"):
        ModelFolder.open("owner/name")


def test_foreign_exceptions_name_the_file(
    base_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(base_model, tmp_path / "base"))
    opened = ModelFolder.open(folder)
    (folder / "model.safetensors").write_bytes(b"\xff" * 100)  # after its header was read
    with pytest.raises(InputError, match=r"model\.safetensors: cannot be read"):
        opened.read(EMBEDDING)
    with pytest.raises(InputError, match=r"model\.safetensors: cannot be read"):
        opened.copy(tmp_path, {EMBEDDING: torch.zeros(1)})
    with pytest.raises(InputError, match=r"base: transformers cannot load it"):
        opened.load(torch.float32)
    shutil.copy(base_model / "model.safetensors", folder)
    config = json.loads((folder / "config.json").read_text())
    for change in ({"hidden_size": "wide"}, {"model_type": "none"}, {"hidden_size": 64}):
        (folder / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(InputError, match=r"base: transformers cannot load it"):
            ModelFolder.open(folder).load(torch.float32)
    for name in ("config.json", "model.safetensors.index.json"):
        (folder / name).write_text("[" * 100_000)
        with pytest.raises(InputError, match=name):
            ModelFolder.open(folder)
        (folder / name).write_text(json.dumps(config))


def test_fingerprint_is_of_the_tensors(
    make_model: Callable[..., Path], base_model: Path, tmp_path: Path
) -> None:
    """Equal over another split into files; other when a bit changes."""
    split = ModelFolder.open(make_model(tmp_path / "split", tie_word_embeddings=False))
    assert len({info.file for info in split.tensors.values()}) > 1
    assert split.fingerprint == ModelFolder.open(base_model).fingerprint
    changed = Path(shutil.copytree(base_model, tmp_path / "changed")) / "model.safetensors"
    data = bytearray(changed.read_bytes())
    data[-1] ^= 1
    changed.write_bytes(data)
    assert ModelFolder.open(changed.parent).fingerprint != split.fingerprint


def test_a_full_disk_is_named(
    base_model: Path, new_tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the work where the free space tells, else when the write fails; nothing is left behind."""
    free = shutil.disk_usage(tmp_path)._replace(free=1000)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda place: free)
        with pytest.raises(OSError, match=r"needs [\d,]+ bytes, and 1,000 are free") as caught:
            extend_model(base_model, new_tokenizer, tmp_path / "out")
    assert caught.value.filename == str(tmp_path / "out")

    code = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)); "
    code += "from zhuzi.cli import main; sys.argv[0] = 'zhuzi'; main()"
    options = ["--model", base_model, "--tokenizer", new_tokenizer, "--out", tmp_path / "out"]
    command = [sys.executable, "-c", code, "model", "extend", *map(str, options)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 1
    *start, last = run.stderr.splitlines()
    assert start == [f"extending {base_model} from 400 rows to 410 (float16)"]
    assert last.startswith(
        f"zhuzi: {tmp_path / 'out'}: a file would be larger than the limit of 50,000 bytes"
    )
    assert list(tmp_path.iterdir()) == []
