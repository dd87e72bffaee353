"""Install what this project needs, itself apart, into the environment whose Python runs this.

    PYTHON tools/install.py [--oldest] [--upgrade] [--torch-index URL] [--pip] EXTRA...

By uv, which on a busy machine took two minutes from an empty cache where pip took eighteen, and 7 seconds
from a full one. By pip where uv is not to be had, fails, or would not do as the user's pip is told to: uv
reads none of its settings, so those with a counterpart are handed on, and any other that matters leaves the
work to pip.

The project itself is left out: the Makefile builds it, and only when Rust has changed.
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

#: Settings of pip by their counterparts, as variables that uv reads.
HANDED_ON = {
    "index-url": "UV_DEFAULT_INDEX",
    "find-links": "UV_FIND_LINKS",
    "cert": "SSL_CERT_FILE",
    "timeout": "UV_HTTP_TIMEOUT",
    "default-timeout": "UV_HTTP_TIMEOUT",
}
#: Settings that do not decide what is installed, or from where.
OF_NO_MATTER = {
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
        # What the tests are run with need not be old.
        tests = [each for each in requirements(["dev"]) if each.startswith("pytest")]
        wanted = [*lowest(wanted), *tests]
    upgrade = ["--upgrade"] if args.upgrade else []
    uv = None if args.pip else find_uv()
    if args.torch_index:
        torch = [each for each in wanted if re.match(r"torch\b", each)]
        install(uv, [*upgrade, "--index-url", args.torch_index, *torch])
    install(uv, [*upgrade, *wanted])


def requirements(extras: Sequence[str]) -> list[str]:
    """The requirements of the project and of the extras named, without their blanks."""
    project = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))["project"]
    wanted = list(project["dependencies"])
    for extra in extras:
        wanted += [r for r in project["optional-dependencies"][extra] if not r.startswith(project["name"])]
    return [requirement.replace(" ", "") for requirement in wanted]


def lowest(wanted: Sequence[str]) -> list[str]:
    """Each requirement at the lowest version that it allows."""
    return [requirement.replace(">=", "==").partition(",")[0] for requirement in wanted]


def install(uv: tuple[str, dict[str, str]] | None, arguments: Sequence[str]) -> None:
    """Install by uv, or else by pip, whose word is the last."""
    if uv is not None:
        program, settings = uv
        command = [program, "pip", "install", "--python", sys.executable, *arguments]
        code = subprocess.run(command, env={**os.environ, **settings}).returncode
        if code == 0:
            return
        if code < 0:  # a signal: whoever stops it does not want pip to go on
            sys.exit(1)
        sys.stderr.write("uv could not do it (see above); pip does it\n")
    done = subprocess.run([*PIP, "install", *arguments])
    if done.returncode != 0:
        sys.exit(done.returncode)


def find_uv() -> tuple[str, dict[str, str]] | None:
    """uv and the variables by which it does as pip is told to, if both can be."""
    listed = subprocess.run([*PIP, "config", "list"], capture_output=True, text=True)
    settings = {} if listed.returncode else counterparts(listed.stdout)
    if listed.returncode or settings is None:
        return None
    beside = Path(sys.executable).with_name("uv")
    if not beside.exists() and not shutil.which("uv"):
        # From the index that pip is told to use; nobody misses it where it cannot be had.
        subprocess.run([*PIP, "install", "--quiet", "uv"], stderr=subprocess.DEVNULL)
    program = str(beside) if beside.exists() else shutil.which("uv")
    return (program, settings) if program else None


def counterparts(listed: str) -> dict[str, str] | None:
    """The variables for what `pip config list` prints; none if uv has no counterpart for a setting."""
    found: dict[str, str] = {}
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        section, _, key = name.rpartition(".")
        if section not in ("global", "install", ":env:") or key in OF_NO_MATTER:
            continue
        if key not in HANDED_ON:
            return None
        # Of several places the user's variables count most; pip lists them under both names.
        if HANDED_ON[key] not in found or section == ":env:":
            found[HANDED_ON[key]] = ",".join(str(ast.literal_eval(value)).split())
    return found


if __name__ == "__main__":
    main()
