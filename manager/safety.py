"""Whether a manager may start as it is set up: what a stranger on the network could otherwise do, in sentences."""

import stat
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path

from manager.domain.refusals import Refusal
from manager.repository.privileges import unverified
from manager.settings import Settings
from manager.wire.tls import tls_of

CHOSEN = "--insecure-i-know serves all the same"


class Unsafe(Refusal):
    """One sentence for each thing that is missing. `choice`: whether an operator may do without it."""

    def __init__(self, sentences: Sequence[str], *, choice: bool) -> None:
        super().__init__("\n".join(sentences))
        self.sentences = tuple(sentences)
        self.choice = choice


def require(settings: Settings) -> None:
    """Raises Unsafe unless these settings may be served with."""
    wrong = list(contradictions(settings))
    open_ = [] if settings.insecure_i_know else list(dangers(settings))
    if wrong or open_:
        raise Unsafe([*wrong, *open_], choice=not wrong)


def is_development(settings: Settings) -> bool:
    """Whether this machine alone is served, and nobody is asked who calls."""
    return not settings.auth and is_local(settings)


def is_local(settings: Settings) -> bool:
    """Whether nobody but this machine reaches it."""
    return all(map(loopback, settings.bind))


def reflects(settings: Settings) -> bool:
    """Whether the contract itself is served: in development, unless somebody said otherwise."""
    return is_development(settings) if settings.reflection is None else settings.reflection


def notice(settings: Settings) -> str:
    """What stands in the banner; nothing where everybody is asked who calls, and nothing was waived."""
    if is_development(settings):
        return "development    no credentials are asked for: whoever has an account here may do everything"
    return "INSECURE       by --insecure-i-know: see docs/security.md" if settings.insecure_i_know else ""


def contradictions(settings: Settings) -> Iterator[str]:
    """What cannot be meant."""
    if settings.tls_cert and not settings.tls_key:
        yield "IM_TLS_CERT is set without IM_TLS_KEY: set both, or neither"
    if settings.tls_key and not settings.tls_cert:
        yield "IM_TLS_KEY is set without IM_TLS_CERT: set both, or neither"
    if settings.tls_client_ca and not settings.tls_cert:
        yield "IM_TLS_CLIENT_CA is set without IM_TLS_CERT: certificates of clients are shown over TLS alone"
    lost = [(name, path) for name, path in _files(settings) if path and not path.is_file()]
    for name, path in lost:
        yield f"{name} is {path}, and there is no such file"
    if not lost and (tls := tls_of(settings)) and (wrong := tls.fault()):
        names = "IM_TLS_CERT, IM_TLS_KEY or IM_TLS_CLIENT_CA"
        yield f"{names} is not what it has to be, in PEM and without a password: {wrong}"


def dangers(settings: Settings) -> Iterator[str]:
    """What a stranger could make use of."""
    far = [each for each in settings.bind if not loopback(each)]
    if far and not settings.tls_cert:
        yield f"there is no TLS on {', '.join(far)}, which is no loopback address: set IM_TLS_CERT and IM_TLS_KEY"
    if far and not settings.auth:
        yield f"nobody is asked who calls on {', '.join(far)}, which is no loopback address: set IM_AUTH=true"
    if settings.tls_key and (mode := _readable(settings.tls_key)):
        yield f"the key in IM_TLS_KEY can be read by others, its mode is {mode}: chmod 600 {settings.tls_key}"
    if hosts := unverified(settings.database_url):
        yield (
            f"the database at {', '.join(hosts)} is reached without verified TLS: add sslmode=verify-full to its"
            " address, and sslrootcert where its authority is your own"
        )


def _files(settings: Settings) -> Sequence[tuple[str, Path | None]]:
    return (
        ("IM_TLS_CERT", settings.tls_cert),
        ("IM_TLS_KEY", settings.tls_key),
        ("IM_TLS_CLIENT_CA", settings.tls_client_ca),
    )


def _readable(key: Path) -> str:
    """The mode of a file that others may read; nothing where only its owner may, or the group of root's, as PostgreSQL
    has it."""
    try:
        told = key.stat()
    except OSError:
        return ""
    forbidden = stat.S_IRWXO | (stat.S_IWGRP | stat.S_IXGRP if told.st_uid == 0 else stat.S_IRWXG)
    return f"{stat.S_IMODE(told.st_mode):04o}" if told.st_mode & forbidden else ""


def loopback(host: str) -> bool:
    """Whether nobody but this machine reaches the address."""
    bare = host.strip("[]").lower()
    try:
        return ip_address(bare).is_loopback
    except ValueError:
        return bare == "localhost"
