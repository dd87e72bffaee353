"""A model from elsewhere: a mirror of the hub (`HF_ENDPOINT`), a folder that ModelScope downloaded."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from zhuzi.errors import InputError
from zhuzi.model.folder import ModelFolder
from zhuzi.tokenizer import Tokenizer

SHA = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as fetching a snapshot of `owner/base` takes."""

    folder: Path
    asked: list[str]

    def do_HEAD(self) -> None:
        self._answer(send=False)

    def do_GET(self) -> None:
        self._answer(send=True)

    def _answer(self, *, send: bool) -> None:
        path = self.path.partition("?")[0]
        self.asked.append(path)
        files = sorted(file.name for file in self.folder.iterdir())
        if path.startswith("/api/models/owner/base/tree/"):
            listed = [
                {"type": "file", "path": name, "size": (self.folder / name).stat().st_size, "oid": SHA}
                for name in files
            ]
            self._send(json.dumps(listed).encode(), send=send)
        elif path.startswith("/api/models/owner/base"):
            facts = {"id": "owner/base", "sha": SHA, "siblings": [{"rfilename": name} for name in files]}
            self._send(json.dumps(facts).encode(), send=send)
        elif path.startswith("/owner/base/resolve/") and path.rpartition("/")[2] in files:
            self._send((self.folder / path.rpartition("/")[2]).read_bytes(), send=send)
        else:
            self.send_error(404)

    def _send(self, body: bytes, *, send: bool) -> None:
        self.send_response(200)
        for name, value in {
            "Content-Length": len(body),
            "Content-Type": "application/json",
            "ETag": f'"{SHA}{len(body)}"',
            "X-Repo-Commit": SHA,
        }.items():
            self.send_header(name, str(value))
        self.end_headers()
        if send:
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def mirror(base_model: Path) -> Iterator[tuple[str, list[str]]]:
    """Its address, and the paths it was asked for."""
    handler = type("Handler", (Hub,), {"folder": base_model, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler.asked  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()
    thread.join()


def run(code: str, address: str, cache: Path) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the client reads its settings when it is imported."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    env |= {"HF_ENDPOINT": address, "HF_HOME": str(cache), "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=env, timeout=120
    )


def test_a_hub_id_is_fetched_from_the_mirror(
    mirror: tuple[str, list[str]], base_model: Path, tmp_path: Path
) -> None:
    address, asked = mirror
    code = (
        "from zhuzi.model.folder import ModelFolder; m = ModelFolder.open('owner/base'); "
        "print(m.fingerprint, m.tokenizer.vocab_size)"
    )
    done = run(code, address, tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    ours = ModelFolder.open(base_model)
    assert done.stdout.split() == [ours.fingerprint, str(ours.tokenizer.vocab_size)]
    assert any("/resolve/" in path and path.endswith("model.safetensors") for path in asked)


def test_a_mirror_without_the_model_is_named(mirror: tuple[str, list[str]], tmp_path: Path) -> None:
    code = (
        "from zhuzi.errors import InputError\nfrom zhuzi.model.folder import ModelFolder\n"
        "try:\n    ModelFolder.open('owner/absent')\nexcept InputError as error:\n    print(error)"
    )
    said = run(code, mirror[0], tmp_path / "cache").stdout
    assert said.startswith("owner/absent: no such folder, and ")
    assert mirror[0] in said and "HF_ENDPOINT" in said


def test_a_folder_that_modelscope_downloaded(base_model: Path, tmp_path: Path) -> None:
    """Its notes lie beside the files, and it writes dots in names as three underscores."""
    folder = tmp_path / "models" / "owner" / "llama-2___0-base"
    shutil.copytree(base_model, folder)
    for name in (".msc", ".mdl", ".mv"):
        (folder / name).write_bytes(b"\x80\x04notes")
    (folder / "configuration.json").write_text('{"framework": "pytorch", "task": "text-generation"}')
    (folder / "._____temp").mkdir()
    theirs = ModelFolder.open(folder)
    assert theirs.fingerprint == ModelFolder.open(base_model).fingerprint
    assert isinstance(theirs.tokenizer, Tokenizer)
    with pytest.raises(InputError, match="no such folder"):
        ModelFolder.open(str(tmp_path / "models" / "owner" / "llama-2.0-base"))
