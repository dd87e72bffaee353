"""The recipes that come with the package: `zhuzi/recipes/*.yaml`, by their names."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from importlib.resources import files
from itertools import takewhile
from pathlib import Path

from zhuzi.errors import RecipeError
from zhuzi.record.output import new_file


@dataclass(frozen=True)
class ShippedRecipe:
    """A recipe of the package."""

    name: str
    text: str

    @property
    def about(self) -> str:
        """What it says of itself: the comment at its head."""
        lines = takewhile(lambda line: line.startswith("#"), self.text.splitlines())
        return " ".join(line.lstrip("# ") for line in lines)

    @property
    def summary(self) -> str:
        """The first sentence of `about`."""
        return self.about.partition(". ")[0]


def shipped_recipes() -> dict[str, ShippedRecipe]:
    """All of them, by name."""
    found = (files("zhuzi") / "recipes").iterdir()
    named = {file.name.removesuffix(".yaml"): file for file in found if file.name.endswith(".yaml")}
    return {name: ShippedRecipe(name, named[name].read_text("utf-8")) for name in sorted(named)}


def shipped_recipe(name: str) -> ShippedRecipe:
    """One of them.

    Raises:
        RecipeError: there is none of this name; a similar one is suggested.
    """
    known = shipped_recipes()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise RecipeError(
            f"{name}: no recipe of this name; "
            + (f"did you mean {near[0]}?" if near else "`zhuzi recipes list` shows all")
        )
    return known[name]


def copy_recipe(name: str, out: str | Path | None = None, *, overwrite: bool = False) -> Path:
    """Write a recipe of the package to a file, to be changed; `NAME.yaml` by default.

    Raises:
        RecipeError: there is no recipe of this name.
        OutputExistsError: the file is there, and is not to be replaced.
    """
    recipe = shipped_recipe(name)
    path = Path(f"{name}.yaml" if out is None else out)
    with new_file(path, kind="recipe", overwrite=overwrite) as made:
        made.write_text(recipe.text, "utf-8")
    return path
