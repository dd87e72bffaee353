"""Install this project's dependencies into the environment of the Python that runs this.

    PYTHON tools/install.py [--oldest] [--upgrade] [--torch-index URL] [--pip] EXTRA...

With uv where possible: on a busy machine it took two minutes from an empty cache, where pip took eighteen,
and 7 seconds from a full one. With pip if uv is not available, fails, or cannot follow the user's
configuration of pip: uv does not read it, so settings that uv has as well are passed on to it, and any other
that matters means that pip is used.

The project itself is not installed: the Makefile builds it, and only when Rust has changed.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

PIP = [sys.executable, "-m", "pip"]

#: Settings of pip that uv has as well, with the environment variables that set them for uv.
PASSED_ON = {
    "index-url": "UV_DEFAULT_INDEX",
    "find-links": "UV_FIND_LINKS",
    "cert": "SSL_CERT_FILE",
    "timeout": "UV_HTTP_TIMEOUT",
    "default-timeout": "UV_HTTP_TIMEOUT",
}
#: Settings of pip that do not affect what is installed, or from where.
IRRELEVANT = {
    *("cache-dir", "disable-pip-version-check", "no-cache-dir", "no-color", "no-input", "prefer-binary"),
    *("progress-bar", "quiet", "require-virtualenv", "retries", "root-user-action", "user", "verbose"),
    *("break-system-packages", "no-python-version-warning", "no-warn-script-location"),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("extras", nargs="+", metavar="EXTRA")
    parser.add_argument("--oldest", action="store_true", help="the lowest versions that are allowed")
    parser.add_argument("--upgrade", action="store_true", help="the newest ones, whatever is there")
    parser.add_argument("--torch-index", default="", help="take torch from this index")
    parser.add_argument("--pip", action="store_true", help="never use uv")
    args = parser.parse_args()
    wanted = requirements(args.extras)
    if args.oldest:
        # The test tools need not be old.
        tests = [each for each in requirements(["dev"]) if each.startswith(("pytest", "httpx", "openai"))]
        wanted = [*lowest(wanted), *tests]
    upgrade = ["--upgrade"] if args.upgrade else []
    uv = None if args.pip else find_uv()
    if args.torch_index:
        torch = [each for each in wanted if re.match(r"torch\b", each)]
        install(uv, [*upgrade, "--index-url", args.torch_index, *torch])
    install(uv, [*upgrade, *wanted])


def requirements(extras: Sequence[str]) -> list[str]:
    """The requirements of the project and of the named extras, without spaces."""
    project = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))["project"]
    wanted = list(project["dependencies"])
    for extra in extras:
        wanted += [r for r in project["optional-dependencies"][extra] if not r.startswith(project["name"])]
    return [requirement.replace(" ", "") for requirement in wanted]


def lowest(wanted: Sequence[str]) -> list[str]:
    """Each requirement at the lowest version that it allows."""
    return [requirement.replace(">=", "==").partition(",")[0] for requirement in wanted]


def install(uv: tuple[str, dict[str, str]] | None, arguments: Sequence[str]) -> None:
    """Install with uv; without it, or if it fails, with pip, and exit if pip fails as well."""
    if uv is not None:
        program, settings = uv
        command = [program, "pip", "install", "--python", sys.executable, *arguments]
        code = subprocess.run(command, env={**os.environ, **settings}).returncode
        if code == 0:
            return
        if code < 0:  # a signal: whoever stopped uv does not want pip to take over
            sys.exit(1)
        sys.stderr.write("uv failed (see above); trying pip\n")
    done = subprocess.run([*PIP, "install", *arguments])
    if done.returncode != 0:
        sys.exit(done.returncode)


def find_uv() -> tuple[str, dict[str, str]] | None:
    """uv and the environment variables that pass pip's settings on; none if pip is to be used."""
    listed = subprocess.run([*PIP, "config", "list"], capture_output=True, text=True)
    settings = {} if listed.returncode else counterparts(listed.stdout)
    if listed.returncode or settings is None:
        return None
    own = Path(sys.executable).with_name("uv")
    if not own.exists() and not shutil.which("uv"):
        # From the index that pip is set to use. That it fails is no error: pip does the work then.
        subprocess.run([*PIP, "install", "--quiet", "uv"], stderr=subprocess.DEVNULL)
    program = str(own) if own.exists() else shutil.which("uv")
    return (program, settings) if program else None


def counterparts(listed: str) -> dict[str, str] | None:
    """uv's variables for what `pip config list` prints; none if uv lacks one of the settings."""
    found: dict[str, str] = {}
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        section, _, key = name.rpartition(".")
        if section not in ("global", "install", ":env:") or key in IRRELEVANT:
            continue
        if key not in PASSED_ON:
            return None
        # Environment variables come before configuration files; pip lists both.
        if PASSED_ON[key] not in found or section == ":env:":
            found[PASSED_ON[key]] = ",".join(str(ast.literal_eval(value)).split())
    return found


if __name__ == "__main__":
    main()
