from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rushes.errors import ConfigError, UnknownName
from rushes.registry import Registry

PARTS = Registry("part", {"encode": "json:dumps", "lost": "no_such_module:x", "bare": "json:no_such_name"})


def test_names_and_load() -> None:
    assert PARTS.names() == ("encode", "lost", "bare")
    assert PARTS.load("encode")([1]) == "[1]"
    assert "encode" in PARTS
    assert "decode" not in PARTS


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'encode'") as caught:
        PARTS.load("encoed")
    assert caught.value.field == "part"


@pytest.mark.parametrize("name", ["lost", "bare"])
def test_code_that_cannot_load_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=f"part '{name}' cannot be loaded from"):
        PARTS.load(name)


def install(folder: Path, *points: str) -> None:
    """A distribution's metadata, as pip would leave it beside the package."""
    info = folder / "extra-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: extra\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("\n".join(["[rushes.tested]", *points]))


def test_entry_points_are_listed_unloaded_and_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "extra_part.py").write_text("PART = 'loaded'")
    install(tmp_path, "extra = extra_part:PART")
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry("part", {"encode": "json:dumps"}, group="rushes.tested")
    assert registry.names() == ("encode", "extra")
    assert "extra_part" not in sys.modules
    assert registry.load("extra") == "loaded"


def test_a_plug_in_cannot_take_a_built_in_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "encode = extra_part:PART")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="'encode' is declared twice"):
        Registry("part", {"encode": "json:dumps"}, group="rushes.tested").names()


def test_solvers_and_rules_are_listed_without_torch() -> None:
    code = (
        "import sys\n"
        "from rushes.pipelines.rules import RULES, load_rules, resolve\n"
        "from rushes.sampling.solvers import SOLVERS\n"
        "SOLVERS.names(), [resolve(load_rules(name), 'a dog') for name in RULES.names()]\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
