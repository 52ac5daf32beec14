"""What `rushes serve` hands on to its workers is what a worker understands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from rushes.cli.serve import about_keys, serve, settings_of, worker_command
from rushes.cli.worker import worker
from rushes.errors import ConfigError, InvalidRequest


def test_workers_are_told_what_they_share_with_the_gateway(tmp_path: Path) -> None:
    file = tmp_path / "rushes.toml"
    file.write_text(f'store = "{tmp_path / "store"}"\nkeep_days = 2\nlog_level = "info"\n')
    flags = {"config_file": file, "redis": "redis://127.0.0.1:6379/0", "log_prompts": True}
    command = worker_command(settings_of(flags), {"--model": "toy", "--plan": None, "--keep-gb": 3.0})
    with worker.make_context("worker", list(command[4:])) as context:
        given = context.params
    assert command[1:4] == ("-m", "rushes", "worker")
    assert (given["store"], given["keep_days"], given["keep_gb"]) == (tmp_path / "store", 2.0, 3.0)
    assert (given["redis"], given["memcached"], given["plan_file"]) == (flags["redis"], None, None)
    assert (given["log_level"], given["log_prompts"], given["metrics_port"]) == ("info", True, 0)


def test_days_are_none_or_more(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="keep_days: must be from 0 on, got -1"):
        settings_of({"store": tmp_path, "keep_days": -1.0})


def test_the_first_start_gives_a_key_and_the_next_says_where_more_come_from(tmp_path: Path) -> None:
    settings = settings_of({"store": tmp_path})
    first = about_keys(settings, "http://x")
    assert re.fullmatch(r"first key: (rk_\S+)  \(shown once; studio: http://x/#key=\1\)", first)
    second = about_keys(settings, "http://x")
    assert f"rushes keys create NAME --store {tmp_path}" in second
    assert "rk_" not in second


@pytest.mark.parametrize(
    ("model", "rule"), [("nofolder", "choose from toy, "), ("wan2.2-t2v-a14b", "the folder")]
)
def test_a_model_that_no_worker_could_load_is_refused_before_anything_listens(
    tmp_path: Path, model: str, rule: str
) -> None:
    result = CliRunner().invoke(serve, ["--store", str(tmp_path), "--port", "0", "--model", model])
    assert isinstance(result.exception, InvalidRequest)
    assert rule in str(result.exception)
    assert list(tmp_path.iterdir()) == []
