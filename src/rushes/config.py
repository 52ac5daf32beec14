"""Settings from the environment: the only module that reads it. No torch here.

| variable | meaning | default |
|---|---|---|
| `RUSHES_DEVICE` | torch device name | cuda where there is one, else cpu |
| `RUSHES_DTYPE` | `float32`, `bfloat16` or `float16` | bfloat16 on cuda, float32 elsewhere |
| `RUSHES_NUM_THREADS` | CPU threads of torch | torch's own choice |
| `RUSHES_STORE` | folder of jobs, checkpoints and results | `~/.rushes` |
| `RUSHES_CACHE` | folder of what can be made again: compiled code | `~/.cache/rushes` |

and those of the service, `SERVICE`. Who asks S3 is read from AWS's own variables, see `S3Access`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path

from rushes.errors import ConfigError, did_you_mean

DTYPES = ("float32", "bfloat16", "float16")
TOY_FOLDER = Path(__file__).parent / "assets" / "toy"
"""The embedded model, a folder in diffusers' layout."""

SERVICE = (
    "host",
    "port",
    "grpc_port",
    "redis",
    "memcached",
    "s3",
    "public_url",
    "otlp",
    "latent_reuse",
    "reuse_gb",
    "reuse_tenant_gb",
    "reuse_policy",
    "reuse_synonyms",
    "reuse_seed_sigma",
    "audit_share",
    "warm",
    "warm_tenant",
    "cors",
    "proxies",
    "log_format",
    "log_level",
)
"""Settings of the service that the environment may give: `rushes.server.settings` says what they mean."""

CLIENT = ("url", "key")
"""What a client of a service may read there. The key is a secret: no message holds it."""

_PREFIX = "RUSHES_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the environment asks for; None leaves the choice to `rushes.load`."""

    device: str | None = None
    dtype: str | None = None
    num_threads: int | None = None
    store: str | None = None
    cache: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Access:
    """Where S3 is and who asks, by AWS's variables; None leaves it to the machine's role.

    Attributes:
        access_key_id, secret_access_key, session_token: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`,
            `AWS_SESSION_TOKEN`.
        region: `AWS_REGION` or `AWS_DEFAULT_REGION`.
        endpoint: `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL`, of another server than AWS's.
    """

    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    region: str = "us-east-1"
    endpoint: str | None = None


def s3_access(environ: Mapping[str, str] = os.environ) -> S3Access:
    """Who asks S3, and where it is.

    >>> s3_access({"AWS_ENDPOINT_URL": "http://127.0.0.1:8333"})
    S3Access(access_key_id=None, region='us-east-1', endpoint='http://127.0.0.1:8333')
    """
    return S3Access(
        access_key_id=environ.get("AWS_ACCESS_KEY_ID"),
        secret_access_key=environ.get("AWS_SECRET_ACCESS_KEY"),
        session_token=environ.get("AWS_SESSION_TOKEN"),
        region=environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or "us-east-1",
        endpoint=environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL"),
    )


def let_threads_sleep(environ: MutableMapping[str, str] = os.environ) -> None:
    """Make OpenMP's threads sleep while they wait for each other, unless `OMP_WAIT_POLICY` says otherwise.

    By default they spin, and with another busy program on one of two cores a toy clip took 60 s instead
    of 13 s. OpenMP reads the variable when torch is loaded, so `import rushes` sets it; a torch that was
    imported before keeps its own.
    """
    environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def let_segments_grow(environ: MutableMapping[str, str] = os.environ) -> None:
    """Make torch's CUDA allocator grow its segments instead of adding more, unless a variable says otherwise.

    Clips of many sizes leave gaps between fixed segments: TI2V-5B at 1280x704 with 121 frames, which needs
    21 GB, ran out of 24 GB on an H200 with 3.7 GB reserved and unused, and runs with this. torch reads the
    variable when it first uses CUDA; it has two names for it, the older of which older versions know.
    """
    names = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
    if not any(name in environ for name in names):
        environ.update(dict.fromkeys(names, "expandable_segments:True"))


def read_settings(environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings of `environ`. Raises `ConfigError` for an unknown variable or a value that cannot be read.

    >>> read_settings({"RUSHES_DEVICE": "cpu", "RUSHES_NUM_THREADS": "2"})
    Settings(device='cpu', dtype=None, num_threads=2, store=None, cache=None)
    """
    given = {name.removeprefix(_PREFIX).lower(): value for name, value in environ.items() if _is_ours(name)}
    known = {*Settings.__dataclass_fields__, *SERVICE, *CLIENT}
    for name in given.keys() - known:
        hint = did_you_mean(name, known)
        raise ConfigError(f"environment: unknown variable {_PREFIX}{name.upper()}{hint}")
    return Settings(
        device=given.get("device"),
        dtype=_dtype(given.get("dtype")),
        num_threads=_count("NUM_THREADS", given.get("num_threads")),
        store=given.get("store"),
        cache=given.get("cache"),
    )


def service_variables(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What the environment says of the service, by setting, as text. Raises as `read_settings`."""
    read_settings(environ)
    found = {name: environ.get(f"{_PREFIX}{name.upper()}") for name in SERVICE}
    return {name: text for name, text in found.items() if text is not None}


def client_variables(environ: Mapping[str, str] = os.environ) -> tuple[str | None, str | None]:
    """URL and key of the service that commands call. Raises as `read_settings`."""
    read_settings(environ)
    url, key = (environ.get(f"{_PREFIX}{name.upper()}") or None for name in CLIENT)
    return url, key


def store_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder of jobs that clients and workers of this machine share. Raises as `read_settings`."""
    return Path(read_settings(environ).store or "~/.rushes").expanduser()


def cache_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder of what can be made again, such as compiled code. Raises as `read_settings`."""
    return Path(read_settings(environ).cache or "~/.cache/rushes").expanduser()


def _is_ours(name: str) -> bool:
    return name.startswith(_PREFIX)


def _dtype(value: str | None) -> str | None:
    if value is not None and value not in DTYPES:
        raise ConfigError(f"{_PREFIX}DTYPE: {value!r} is not one of {', '.join(DTYPES)}")
    return value


def _count(name: str, value: str | None) -> int | None:
    if value is None:
        return None
    if not value.isdigit() or int(value) < 1:
        raise ConfigError(f"{_PREFIX}{name}: {value!r} is not a whole number >= 1")
    return int(value)
