"""`imctl version`: of this program, and of the contract that it speaks."""

import platform
from dataclasses import asdict, dataclass

from manager import __version__
from manager.cli.output import Shown
from manager.cli.table import Column, Sheet
from manager.pb.version import PROTO_VERSION


@dataclass(frozen=True, slots=True)
class _Version:
    imctl: str
    proto_version: str
    python: str
    platform: str


VERSIONS: Sheet[_Version] = Sheet(
    columns=(
        Column("imctl", lambda told: told.imctl),
        Column("proto_version", lambda told: told.proto_version),
        Column("python", lambda told: told.python),
        Column("platform", lambda told: told.platform),
    ),
    name=lambda told: told.imctl,
    document=asdict,
)


def version(shown: Shown) -> None:
    """Tell which release this is, and which version of the protocol it speaks. `imctl doctor` asks a manager's.

    \b
    Examples:
      imctl version
      imctl version -o json
    """
    python = platform.python_version()
    shown.of(VERSIONS).one(_Version(__version__, PROTO_VERSION, python, f"{platform.system()} {platform.machine()}"))
