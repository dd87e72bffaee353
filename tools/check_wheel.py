"""Check the wheels of a folder: each runs with glibc 2.17 or newer (manylinux2014), on any Python from 3.11.

python tools/check_wheel.py FOLDER
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

OLDEST_GLIBC = (2, 17)


def problems(wheel: Path) -> list[str]:
    """What keeps a wheel from running there; empty if nothing does."""
    found = []
    _, _, python, abi, platform = wheel.stem.split("-")
    if (python, abi) != ("cp311", "abi3"):
        found.append(f"built for {python}-{abi}, not for every Python from 3.11 (cp311-abi3)")
    if "manylinux2014" not in platform:
        found.append(f"tagged {platform}, not manylinux2014: was it built with make wheel?")
    command = [sys.executable, "-m", "auditwheel", "show", str(wheel)]
    shown = " ".join(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    policy = shown.partition('platform tag: "')[2].partition('"')[0]
    parts = policy.split("_")
    if parts[0] != "manylinux" or tuple(map(int, parts[1:3])) > OLDEST_GLIBC:
        found.append(f"auditwheel finds {policy or 'no platform'}: a newer glibc than 2.17 is needed")
    return found


def main() -> None:
    """Print a line per wheel; exit with 1 if one will not run, or none is there."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "dist")
    wheels = sorted(folder.glob("*.whl"))
    if not wheels:
        sys.exit(f"{folder}: no wheel; make wheel builds one")
    wrong = {wheel: problems(wheel) for wheel in wheels}
    for wheel, found in wrong.items():
        said = "; ".join(found) or "runs on glibc 2.17 and newer, Python 3.11 and newer"
        sys.stdout.write(f"{wheel}: {said}\n")
    sys.exit(any(wrong.values()))


if __name__ == "__main__":
    main()
