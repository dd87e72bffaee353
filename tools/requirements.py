"""Print the requirements of this project and of the extras named, one an argument for pip.

pip cannot install a project's dependencies without building the project; the Makefile builds it itself, and
only when Rust has changed.
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))["project"]
wanted = list(project["dependencies"])
for extra in sys.argv[1:]:
    wanted += [r for r in project["optional-dependencies"][extra] if not r.startswith(project["name"])]
sys.stdout.write("\n".join(requirement.replace(" ", "") for requirement in wanted) + "\n")
