"""How a gateway is set up: flags over environment over a TOML file over defaults."""

from __future__ import annotations

import ipaddress
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rushes.config import service_variables, store_folder
from rushes.errors import ConfigError, did_you_mean
from rushes.reuse.staircase import SEEDED_SIGMA
from rushes.server.auth import LOCAL
from rushes.server.logs import LogFormat

__all__ = ["ServerSettings", "read_server_settings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Every setting of a gateway; docs/service.md has a line for each.

    Attributes:
        models: pipelines that may be asked for; none for those that workers serve.
        has_auth: keys are asked for.
        cors: origins whose pages may call; "*" for all.
        proxies: addresses whose forwarding headers are believed.
        keep_days: that ended jobs stay; workers must be told the same.
        drain_s: seconds that open requests get when the gateway stops.
        latent_reuse: "on" lets requests go on from latents of like ones; "off" takes equal clips only.
        reuse_gb: of snapshots that are kept for it.
        reuse_tenant_gb: of these, of each tenant; None for half of them, and for all of them without keys,
            where there is one tenant.
        reuse_policy: which goes first, a name of `rushes.reuse.eviction.POLICIES`.
        reuse_synonyms: file of words that mean the same to the models that it names, or to all; None for what
            a model brings itself (`rushes.reuse.synonym_files`).
        reuse_seed_sigma: noise level below which no latents are taken up for who names a seed; 0 for none.
        audit_share: of those that took latents, made anew to be compared.
        warm: file of requests that are made at the start, see `rushes.server.warm_up`.
        warm_tenant: for whom.
    """

    store: Path
    host: str = "127.0.0.1"
    port: int = 8000
    grpc_port: int | None = None
    models: tuple[str, ...] = ()
    redis: str | None = None
    memcached: str | None = None
    s3: str | None = None
    public_url: str | None = None
    otlp: str | None = None
    has_auth: bool = True
    cors: tuple[str, ...] = ()
    proxies: tuple[str, ...] = ("127.0.0.1",)
    keep_days: float = 7.0
    drain_s: float = 10.0
    log_format: LogFormat = "text"
    log_level: str = "warning"
    has_prompts_in_logs: bool = False
    allows_private_webhooks: bool = False
    latent_reuse: str = "off"
    reuse_gb: float = 10.0
    reuse_tenant_gb: float | None = None
    reuse_policy: str = "cost"
    reuse_synonyms: Path | None = None
    reuse_seed_sigma: float = SEEDED_SIGMA
    audit_share: float = 0.0
    warm: Path | None = None
    warm_tenant: str = LOCAL.tenant

    def __post_init__(self) -> None:
        for name in ("port", "grpc_port"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 65_535:
                raise ConfigError(f"{name}: must be from 0 to 65535, got {value}")
        if not self.keep_days >= 0:
            raise ConfigError(f"keep_days: must be from 0 on, got {self.keep_days:g}")
        if self.latent_reuse not in ("off", "on"):
            raise ConfigError(f"latent_reuse: must be off or on, got {self.latent_reuse!r}")
        if not (self.reuse_gb > 0 and 0 <= self.audit_share <= 1):
            raise ConfigError(
                "reuse_gb: must be above 0, and audit_share from 0 to 1,"
                f" got {self.reuse_gb:g} and {self.audit_share:g}"
            )
        if not 0 <= self.reuse_seed_sigma <= 1:
            raise ConfigError(f"reuse_seed_sigma: must be from 0 to 1, got {self.reuse_seed_sigma:g}")
        if self.reuse_tenant_gb is not None and not self.reuse_tenant_gb > 0:
            raise ConfigError(f"reuse_tenant_gb: must be above 0, got {self.reuse_tenant_gb:g}")
        if not self.has_auth and not is_loopback(self.host):
            raise ConfigError(
                f"host: {self.host!r} is reached from elsewhere, where every call needs a key;"
                " leave --no-auth out, or listen on 127.0.0.1"
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_server_settings(flags: Mapping[str, Any], file: Path | None = None) -> ServerSettings:
    """The settings of flags that were given, the environment, and a TOML file.

    Raises:
        ConfigError: naming the key, its value, the rule and where it stands.
    """
    given: dict[str, Any] = {"store": store_folder()}
    if file is not None:
        given |= _of_file(file)
    given |= {name: _of_text(name, text) for name, text in service_variables().items()}
    given |= {name: value for name, value in flags.items() if value is not None}
    return ServerSettings(**given)


def _of_file(file: Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: is not TOML: {error}") from error
    for name in content:
        if name not in _KINDS:
            raise ConfigError(f"{file}: unknown key {name!r}{did_you_mean(name, _KINDS)}")
    return {name: _checked(f"{file}: {name}", name, value) for name, value in content.items()}


_KINDS: Mapping[str, str] = {field.name: str(field.type) for field in fields(ServerSettings)}


_TRUTH = {"1": True, "true": True, "0": False, "false": False}


def _of_text(name: str, text: str) -> Any:
    kind = _KINDS[name]
    where = f"RUSHES_{name.upper()}"
    if kind.startswith("tuple"):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if kind == "bool":
        return _checked(where, name, _TRUTH.get(text.lower(), text))
    if kind.startswith(("int", "float")):
        try:
            return float(text) if kind.startswith("float") else int(text)
        except ValueError:
            raise ConfigError(f"{where}: must be a number, got {text!r}") from None
    return Path(text).expanduser() if kind.startswith("Path") else text


def _checked(where: str, name: str, value: Any) -> Any:
    kind = _KINDS[name]
    if kind.startswith("tuple"):
        if isinstance(value, list) and all(isinstance(each, str) for each in value):
            return tuple(value)
        raise ConfigError(f"{where}: must be a list of texts, got {value!r}")
    if kind.startswith("Path") and isinstance(value, str):
        return Path(value).expanduser()
    wanted: dict[str, tuple[type, ...]] = {
        "bool": (bool,),
        "int": (int,),
        "float": (int, float),
        "str": (str,),
        "Path": (str,),
        "LogFormat": (str,),
    }
    if not isinstance(value, wanted[kind.partition(" ")[0]]) or (isinstance(value, bool) and kind != "bool"):
        raise ConfigError(f"{where}: must be a {kind.partition(' ')[0]}, got {value!r}")
    return value
