"""The only reader of the environment: every setting is `IM_` and its name in capitals; durations are in seconds."""

import re
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

S = timedelta(seconds=1)
DAY = timedelta(days=1)
HTTP_PORT = 50053


def _number(given: object) -> object:
    """The environment holds text, and pydantic takes a text for a time of day."""
    return float(given) if isinstance(given, str) else given


HOSTS = re.compile(r"((^|,)(\[[^\]]*\]|[^:,\[\]]*)(:\d{1,5})?)*")


def _address(given: str) -> str:
    """A password is taken for other parts where it holds what separates them; then nothing of it is to be told."""
    scheme, _, rest = given.partition("://")
    who, _, hosts = re.split("[/?#]", rest, maxsplit=1)[0].rpartition("@")
    if given and not (scheme in ("postgresql", "postgres") and HOSTS.fullmatch(hosts) and not set(who) & set("[]")):
        raise PydanticCustomError(
            "address",
            "it is no address like postgresql://role:password@host:5432/database, in which whatever is special in the"
            " password is written as %XX",
        )
    return given


Seconds = Annotated[timedelta, BeforeValidator(_number)]


class Transport(StrEnum):
    """What carries the calls: gRPC's own server, or one of ours on libnghttp2."""

    GRPCIO = "grpcio"
    NATIVE = "native"


class LogFormat(StrEnum):
    """How the log is written: in words for people, or as a JSON object a line."""

    TEXT = "text"
    JSON = "json"


class Settings(BaseSettings):
    """What an operator may choose; every queue, buffer and history is bounded by one of these."""

    model_config = SettingsConfigDict(env_prefix="IM_", env_ignore_empty=True, frozen=True, extra="forbid")

    database_url: Annotated[str, AfterValidator(_address)] = Field(
        default="", validation_alias=AliasChoices("IM_DATABASE_URL", "DATABASE_URL", "database_url"), repr=False
    )
    # for the embedded server: where PostgreSQL's binaries are, where its log is archived, and how soon
    postgres_bin: Path | None = None
    archive: Path | None = None
    archive_within: Seconds = Field(default=60 * S, ge=S, le=DAY)
    bind: tuple[str, ...] = ("[::]",)
    port: int = Field(default=50052, ge=0, le=65535)
    http: bool = True
    http_port: int | None = Field(default=None, ge=0, le=65535)  # `http_at` says which it is
    http_names: tuple[str, ...] = ()
    workers: int = Field(default=1, ge=1, le=100)
    transport: Transport | None = None  # `manager.wire.transport` says which it is otherwise

    # who may call: `auth` asks everybody for a token or a certificate; `manager.safety` says where it may be left out
    auth: bool = False
    insecure_i_know: bool = False
    tls_cert: Path | None = None  # PEM, with those between it and its authority
    tls_key: Path | None = None
    tls_client_ca: Path | None = None  # whose certificates clients must have
    tokens_known: int = Field(default=100_000, ge=1)  # how many credentials are remembered between calls

    # leases: defaults for instances that name no timeout of their own
    timeout: Seconds = Field(default=30 * S, ge=S, le=DAY)
    grace: Seconds = Field(default=10 * S, ge=0 * S, le=DAY)
    vllm_timeout: Seconds = Field(default=60 * S, ge=S, le=DAY)
    vllm_grace: Seconds = Field(default=20 * S, ge=0 * S, le=DAY)
    warmpool_timeout: Seconds = Field(default=15 * S, ge=S, le=DAY)
    warmpool_grace: Seconds = Field(default=5 * S, ge=0 * S, le=DAY)
    check_load: float = Field(default=2_000.0, gt=0)

    # the reaper, and its patience after an outage
    reaper_interval: Seconds = Field(default=2 * S, ge=S / 20, le=60 * S)
    outage_after: Seconds = Field(default=10 * S, ge=S / 2, le=10 * S)
    away_after: Seconds = Field(default=5 * S, ge=S / 10, le=DAY)
    drift_after: Seconds = Field(default=2 * S, ge=S / 10, le=DAY)
    outage_grace: Seconds = Field(default=60 * S, ge=0 * S, le=DAY)
    start_grace: Seconds = Field(default=0 * S, ge=0 * S, le=DAY)
    grace_per_hour: Seconds = Field(default=900 * S, ge=0 * S, le=3600 * S)

    # how many may die at once, and from when on many silent ones are rather a fault between us and them
    expiry_rate: float = Field(default=10.0, gt=0)
    expiry_burst: float = Field(default=50.0, ge=1)
    preserve_rate: float = Field(default=1.0, gt=0)
    preserve_size: int = Field(default=20, ge=2)
    preserve_slow: float = Field(default=0.15, gt=0, le=1)
    preserve_stop: float = Field(default=0.5, gt=0, le=1)
    preserve_stop_fleet: float = Field(default=0.3, gt=0, le=1)
    preserve_calm: float = Field(default=0.1, ge=0, le=1)
    preserve_calm_for: Seconds = Field(default=60 * S, ge=0 * S, le=DAY)
    preserve_stop_per_hour: Seconds = Field(default=300 * S, ge=0 * S, le=3600 * S)

    # lanes: how long a busy one lingers for company at most, and how much may wait
    turn_linger: Seconds = Field(default=S / 200, ge=0 * S, le=S)
    turn_queue: int = Field(default=20_000, ge=1)
    turn_size: int = Field(default=1_000, ge=1)
    registration_rate: float = Field(default=500.0, gt=0)
    registration_burst: float = Field(default=2_000.0, ge=1)
    check_linger: Seconds = Field(default=S / 200, ge=0 * S, le=S)
    check_queue: int = Field(default=50_000, ge=1)
    check_size: int = Field(default=5_000, ge=1)
    check_patience: Seconds = Field(default=3 * S, ge=S / 10, le=60 * S)

    read_linger: Seconds = Field(default=S / 200, ge=0 * S, le=S)
    read_queue: int = Field(default=20_000, ge=1)
    read_size: int = Field(default=1_000, ge=1)

    # what is kept, and how it gets there
    sample_buffer: int = Field(default=100_000, ge=1)
    flush_interval: Seconds = Field(default=S / 5, ge=S / 100, le=S)
    metrics_retention: Seconds = Field(default=30 * DAY, ge=DAY, le=3650 * DAY)
    minutes_retention: Seconds = Field(default=90 * DAY, ge=DAY, le=3650 * DAY)
    hours_retention: Seconds = Field(default=400 * DAY, ge=DAY, le=3650 * DAY)
    history_retention: Seconds = Field(default=7 * DAY, ge=S, le=3650 * DAY)
    tombstone_retention: Seconds = Field(default=30 * DAY, ge=S, le=3650 * DAY)
    trail_retention: Seconds = Field(default=400 * DAY, ge=30 * DAY, le=3650 * DAY)
    denied_retention: Seconds = Field(default=400 * DAY, ge=30 * DAY, le=3650 * DAY)
    denied_rows: int = Field(default=200, ge=1, le=100_000)  # an hour
    partitions_ahead: int = Field(default=7, ge=2, le=60)
    upkeep_interval: Seconds = Field(default=300 * S, ge=S, le=DAY)

    # subscriptions: what the process keeps of the history for all, how many there may be, and its patience with each
    feed_events: int = Field(default=20_000, ge=100)
    feed_bytes: int = Field(default=32 * 1024 * 1024, ge=1024 * 1024)
    subscriptions: int = Field(default=5_000, ge=1)
    subscriber_patience: Seconds = Field(default=30 * S, ge=S / 10, le=600 * S)

    # database
    read_connections: int = Field(default=5, ge=1, le=100)
    notify: bool = True
    drain: Seconds = Field(default=5 * S, ge=0 * S, le=300 * S)
    log_format: LogFormat | None = None  # `manager.cli.logs` says which it is otherwise

    # what each client may ask for: bytes of a message, and of what comes before it, calls at once on a connection,
    # seconds between its pings; how long a single call takes that names no deadline, and the most that it may name
    message_size: int = Field(default=1024 * 1024, ge=64 * 1024, le=64 * 1024 * 1024)
    # libnghttp2 unpacks no more than 64 KiB of them, and ends the connection
    metadata_size: int = Field(default=8 * 1024, ge=2 * 1024, le=32 * 1024)
    connection_streams: int = Field(default=128, ge=1, le=100_000)
    connections: int = Field(default=10_000, ge=1, le=1_000_000)
    ping_interval: Seconds = Field(default=20 * S, ge=S, le=3600 * S)
    # how long a connection has to be made, is silent before it is asked for a sign of life, has to give one, lasts
    # without a call, lasts at all, and has then for the calls that are open
    handshake: Seconds = Field(default=10 * S, ge=S, le=60 * S)
    keepalive: Seconds = Field(default=30 * S, ge=S, le=3600 * S)
    keepalive_timeout: Seconds = Field(default=10 * S, ge=S, le=600 * S)
    idle: Seconds = Field(default=300 * S, ge=S, le=DAY)
    connection_age: Seconds = Field(default=1800 * S, ge=S, le=DAY)
    connection_age_grace: Seconds = Field(default=60 * S, ge=0 * S, le=3600 * S)
    deadline: Seconds = Field(default=10 * S, ge=S / 10, le=3600 * S)
    deadline_most: Seconds = Field(default=60 * S, ge=S / 10, le=3600 * S)
    # and each caller, by its name: so many a second, and at once as many as come to `quota_burst` seconds; 0: no bound
    quota_checks: float = Field(default=10_000.0, ge=0)
    quota_kills: float = Field(default=5_000.0, ge=0)
    quota_registrations: float = Field(default=1_000.0, ge=0)
    quota_changes: float = Field(default=1_000.0, ge=0)
    quota_reads: float = Field(default=2_000.0, ge=0)
    quota_lists: float = Field(default=50.0, ge=0)
    quota_samples: float = Field(default=10_000.0, ge=0)
    quota_streams: int = Field(default=1_000, ge=0)
    quota_burst: Seconds = Field(default=10 * S, ge=S, le=3600 * S)
    lists_at_once: int = Field(default=100, ge=0)
    reflection: bool | None = None  # `manager.safety` says where it is served otherwise

    @property
    def http_at(self) -> int:
        """The HTTP port: a free one where none is named and the gRPC port is a free one too."""
        return self.http_port if self.http_port is not None else HTTP_PORT if self.port else 0
