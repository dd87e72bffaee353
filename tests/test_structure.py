"""The shape of the code: no import circles, nothing too long to read at a sitting."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYTHON = ROOT / "python"
CORE = ROOT / "rust" / "core" / "src"


def modules() -> dict[str, Path]:
    """The modules of the package by their names."""
    found = {}
    for path in sorted((PYTHON / "zhuzi").rglob("*.py")):
        parts = path.relative_to(PYTHON).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Those that are executed at some time, in functions too; not those for type checkers."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            yield from imports(node)


def uses(name: str, path: Path, known: Mapping[str, Path]) -> set[str]:
    """The modules that a module imports."""
    found = set()
    for node in imports(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        else:
            assert node.level == 0, f"{path}: a relative import"
            parent = node.module or ""
            targets = [f"{parent}.{a.name}" if f"{parent}.{a.name}" in known else parent for a in node.names]
        found |= {target for target in targets if target in known and target != name}
    return found


def circle(graph: Mapping[str, set[str]]) -> str:
    """One circle of the graph, or nothing."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return " <- ".join(error.args[1])
    return ""


def test_python_modules_import_each_other_in_no_circle() -> None:
    known = modules()
    assert not circle({name: uses(name, path, known) for name, path in known.items()})


def without_tests(code: str) -> str:
    """A Rust file without its comments and the tests at its end."""
    return re.sub(r"//.*", "", code.split("#[cfg(test)]\nmod tests")[0])


def rust_paths(tree: str) -> Iterator[list[str]]:
    """The paths of a `use` with braces: `a::{b, c::d}` is a::b and a::c::d."""
    depth, start, parts = 0, 0, []
    for at, letter in enumerate(tree):
        depth += (letter == "{") - (letter == "}")
        if letter == "," and depth == 0:
            parts.append(tree[start:at])
            start = at + 1
    for part in [*parts, tree[start:]]:
        head, brace, rest = part.partition("{")
        path = [word for word in head.split("::") if word]
        for tail in rust_paths(rest.rsplit("}", 1)[0]) if brace else [[]]:
            if path or tail:
                yield [*path, *tail]


class RustCore:
    """Which file of the core uses which: `use crate::...`, `use super::...` and such paths in the code."""

    def __init__(self) -> None:
        self.files: dict[tuple[str, ...], Path] = {}
        for path in sorted(CORE.rglob("*.rs")):
            parts = path.relative_to(CORE).with_suffix("").parts
            self.files[parts[:-1] if parts[-1] in ("mod", "lib") else parts] = path
        self.code = {module: without_tests(path.read_text("utf-8")) for module, path in self.files.items()}
        self.own = {module: list(self._paths(module)) for module in self.code}

    def _paths(self, module: tuple[str, ...]) -> Iterator[tuple[bool, list[str]]]:
        """Absolute paths that a file names, and whether it re-exports them."""
        code = self.code[module]
        found = [
            (bool(public), path)
            for public, tree in re.findall(r"\b(pub(?:\([a-z]+\))? )?use ([^;]+);", code)
            for path in rust_paths(re.sub(r"\s+", " ", tree).replace(" ", ""))
        ]
        found += [(False, path.split("::")) for path in re.findall(r"\b(?:crate|super)(?:::\w+)+", code)]
        for public, path in found:
            base: tuple[str, ...] = module
            words = [word.split("as ")[0] for word in path]
            if words[0] == "crate":
                base, words = (), words[1:]
            elif words[0] in ("super", "self"):
                while words and words[0] in ("super", "self"):
                    base = base[:-1] if words[0] == "super" else base
                    words = words[1:]
            elif not (public and (*module, words[0]) in self.files):
                continue  # another crate
            yield public, [*base, *words]

    def file_of(self, path: list[str]) -> tuple[str, ...]:
        """The file that defines what a path names, through re-exports of the `mod.rs` above it."""
        for _ in range(8):
            module = tuple(path)
            while module not in self.files:
                module = module[:-1]
            rest = path[len(module) :]
            if not rest:
                return module
            onward = [full for public, full in self.own[module] if public and full[-1] == rest[0]]
            if not onward or onward[0] == path:
                return module
            path = [*onward[0], *rest[1:]]
        return module

    def graph(self) -> dict[str, set[str]]:
        """Uses between files; what a `mod.rs` declares and re-exports is not a use."""
        found: dict[str, set[str]] = {}
        for module, paths in self.own.items():
            targets = {self.file_of(path) for public, path in paths if not public}
            found[str(self.files[module].relative_to(CORE))] = {
                str(self.files[target].relative_to(CORE)) for target in targets if target != module
            }
        return found


def test_rust_files_use_each_other_in_no_circle() -> None:
    assert not circle(RustCore().graph())


@pytest.mark.parametrize("folder", ["python", "rust", "benches"])
def test_no_file_is_longer_than_450_lines(folder: str) -> None:
    for path in [*(ROOT / folder).rglob("*.py"), *(ROOT / folder).rglob("*.rs")]:
        code = path.read_text("utf-8").split("#[cfg(test)]\nmod tests")[0]
        assert code.count("\n") <= 450, path.relative_to(ROOT)


def test_no_function_is_longer_than_80_lines() -> None:
    for path in (PYTHON / "zhuzi").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                assert lines <= 80, f"{path.relative_to(ROOT)}: {node.name} has {lines} lines"
