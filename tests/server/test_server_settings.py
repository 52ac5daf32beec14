"""Where settings of a gateway come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from rushes.errors import ConfigError
from rushes.server.settings import read_server_settings


def test_the_list_of_equal_words_is_named_by_flag_environment_or_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "serve.toml"
    file.write_text('reuse_synonyms = "~/file.toml"\n')
    assert read_server_settings({}).reuse_synonyms is None
    assert read_server_settings({}, file).reuse_synonyms == Path("~/file.toml").expanduser()
    monkeypatch.setenv("RUSHES_REUSE_SYNONYMS", "environment.toml")
    assert read_server_settings({}, file).reuse_synonyms == Path("environment.toml")
    assert read_server_settings({"reuse_synonyms": Path("f")}, file).reuse_synonyms == Path("f")


def test_a_path_that_is_none_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "serve.toml"
    file.write_text("reuse_synonyms = 3\n")
    with pytest.raises(ConfigError, match=r"serve.toml: reuse_synonyms: must be a Path, got 3"):
        read_server_settings({}, file)
