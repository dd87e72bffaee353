"""What `make setup` installs, and when it uses pip instead of uv."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from scripts import load_script

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def install() -> ModuleType:
    return load_script(ROOT / "tools" / "install.py", "zhuzi_install")


def test_requirements(install: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    wanted = install.requirements(["train", "demo"])
    assert any(each.startswith("torch>=") for each in wanted)
    assert any(each.startswith("mistral-common") for each in wanted)
    assert not any(each.startswith("zhuzi") for each in wanted)
    for each in install.lowest(wanted):
        name, _, version = each.partition("==")
        assert name and version[0].isdigit() and "," not in version, "every dependency has a lowest version"


def test_settings_of_pip_are_passed_on_to_uv(install: ModuleType) -> None:
    listed = """
:env:.cert='/etc/own.pem'
:env:.index-url='https://mine.example/simple'
global.cert='/etc/other.pem'
global.disable-pip-version-check='1'
install.find-links='\\n/wheels\\n/more'
"""
    assert install.counterparts(listed) == {
        "SSL_CERT_FILE": "/etc/own.pem",
        "UV_DEFAULT_INDEX": "https://mine.example/simple",
        "UV_FIND_LINKS": "/wheels,/more",
    }
    assert install.counterparts("") == {}


@pytest.mark.parametrize("key", ["extra-index-url", "trusted-host", "no-index", "constraint", "proxy"])
def test_settings_that_uv_lacks_mean_pip(install: ModuleType, key: str) -> None:
    assert install.counterparts(f"global.{key}='x'\n") is None
