"""The file of contexts: named managers, so that nobody has to type addresses.

context = "prod"                  # where neither --context nor IM_CONTEXT names one

[contexts.prod]
address = "manager-1:50052,manager-2:50052"
token_file = "/run/secrets/im"    # or token = "..."
tls_ca = "/etc/im/ca.pem"
tls_cert = "/etc/im/me.pem"
tls_key = "/etc/im/me.key"
"""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

import typer


@dataclass(frozen=True, slots=True)
class Place:
    """Where managers are, and what they want to see. Everything is optional; files are named, not read."""

    address: str = ""
    token: str = field(default="", repr=False)
    token_file: str = ""
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""


@dataclass(frozen=True, slots=True)
class Config:
    """What the file says; nothing of it where there is none."""

    path: Path
    context: str
    contexts: Mapping[str, Place]

    def place(self, name: str) -> Place:
        """The context of that name; an empty one for no name. Raises BadParameter."""
        if name and name not in self.contexts:
            known = ", ".join(self.contexts) or "none"
            raise typer.BadParameter(f"{self.path} has no context {name!r}, but {known}", param_hint="--context")
        return self.contexts[name] if name else Place()


def path_of(environment: Mapping[str, str]) -> Path:
    """IM_CONFIG, or the place that the XDG specification names."""
    if chosen := environment.get("IM_CONFIG"):
        return Path(chosen)
    folder = environment.get("XDG_CONFIG_HOME") or ""
    home = Path(folder) if folder.startswith(os.sep) else Path.home() / ".config"  # a relative one is to be ignored
    return home / "instance-manager" / "config.toml"


def read(environment: Mapping[str, str]) -> Config:
    """The file. Raises BadParameter where it cannot be read, or holds what is not understood, as a misspelt key."""
    path = path_of(environment)
    try:
        told = tomllib.loads(path.read_text())
    except FileNotFoundError:
        if environment.get("IM_CONFIG"):
            _refuse(path, "there is no such file, and IM_CONFIG names it")
        told = {}
    except (OSError, ValueError) as error:
        _refuse(path, str(error))
    contexts = told.pop("contexts", {})
    context = told.pop("context", "")
    if told or not isinstance(contexts, dict) or not isinstance(context, str):
        _refuse(path, f'it may hold `context = "NAME"` and tables [contexts.NAME], not {", ".join(told) or "this"}')
    return Config(path, context, {name: _place(path, name, each) for name, each in contexts.items()})


def _place(path: Path, name: str, told: Any) -> Place:
    known = [each.name for each in fields(Place)]
    if not isinstance(told, dict) or not set(told) <= set(known) or not all(isinstance(v, str) for v in told.values()):
        _refuse(path, f"[contexts.{name}] may hold texts named {', '.join(known)}")
    return Place(**told)


def _refuse(path: Path, why: str) -> NoReturn:
    raise typer.BadParameter(f"{path}: {why}", param_hint="the config file")
