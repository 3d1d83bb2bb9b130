"""The tables, as SQLAlchemy Core: the schema's source. `alembic check` holds the migrations to it.

Numbers in `type`, `cause` and `status` columns are the proto's; the views for people give names instead.
"""

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import (
    JSON,
    REAL,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    ForeignKey,
    Index,
    Integer,
    Interval,
    LargeBinary,
    MetaData,
    Numeric,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.schema import SchemaItem

metadata = MetaData()

LIVING = text("died_revision is null")


def _moment(name: str, *, optional: bool = False) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=optional)


def _check(name: str, rule: str) -> CheckConstraint:
    return CheckConstraint(rule, name=name)


instance = Table(
    "instance",
    metadata,
    Column("id", Uuid, nullable=False),
    Column("type", SmallInteger, nullable=False),
    Column("hostname", Text, nullable=False),
    Column("labels", JSONB, nullable=False),
    Column("timeout", Interval, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    _moment("created_at"),
    Column("created_revision", BigInteger, nullable=False),
    Column("updated_revision", BigInteger, nullable=False),
    _moment("died_at", optional=True),
    Column("died_revision", BigInteger),
    Column("death_cause", SmallInteger),
    Column("root_cause", Uuid),
    # of the dead: what their heartbeat said last
    _moment("last_seen", optional=True),
    PrimaryKeyConstraint("id", name="instance_pkey"),
    _check("instance_type_known", "type between 1 and 6"),
    _check("instance_hostname_length", "char_length(hostname) <= 253"),
    _check("instance_labels_object", "jsonb_typeof(labels) = 'object'"),
    _check("instance_timeout_range", "timeout between interval '1 second' and interval '1 day'"),
    _check("instance_digest_length", "octet_length(digest) = 32"),
    _check("instance_updated_after_created", "updated_revision >= created_revision and created_revision > 0"),
    _check("instance_death_cause_known", "death_cause between 1 and 3"),
    _check("instance_dead_wholly", "num_nulls(died_at, died_revision, death_cause, root_cause) in (0, 4)"),
    _check("instance_own_death", "(root_cause = id) = (death_cause <> 3)"),
    Index("instance_dead", "died_at", postgresql_where=text("died_revision is not null")),
    # for questions about the past: who was born by a time, and who of the dead lived at a revision
    Index("instance_born", "created_at", "created_revision"),
    Index(
        "instance_lived",
        text("int8range(created_revision, died_revision)"),
        postgresql_using="gist",
        postgresql_where=text("died_revision is not null"),
    ),
    # every index that serves the living leaves out the dead, which may be twenty for each of them
    Index("instance_living", "id", postgresql_where=LIVING),
    Index("instance_living_type", "type", "id", postgresql_where=LIVING),
    Index("instance_living_hostname", "hostname", "id", postgresql_where=LIVING),
    Index(
        "instance_living_labels",
        "labels",
        postgresql_using="gin",
        postgresql_ops={"labels": "jsonb_path_ops"},
        postgresql_where=LIVING,
    ),
)

instance_version = Table(
    "instance_version",
    metadata,
    Column("instance_id", Uuid, ForeignKey("instance.id", name="instance_version_instance", ondelete="CASCADE")),
    Column("from_revision", BigInteger, nullable=False),
    Column("to_revision", BigInteger, nullable=False),
    Column("type", SmallInteger, nullable=False),
    Column("hostname", Text, nullable=False),
    Column("labels", JSONB, nullable=False),
    Column("timeout", Interval, nullable=False),
    PrimaryKeyConstraint("instance_id", "from_revision", name="instance_version_pkey"),
    _check("instance_version_order", "from_revision < to_revision"),
)

parent_link = Table(
    "parent_link",
    metadata,
    Column("child_id", Uuid, ForeignKey("instance.id", name="parent_link_child", ondelete="CASCADE")),
    Column("parent_id", Uuid, ForeignKey("instance.id", name="parent_link_parent", ondelete="CASCADE"), nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("ended_revision", BigInteger),
    PrimaryKeyConstraint("child_id", name="parent_link_pkey"),
    _check("parent_link_not_itself", "child_id <> parent_id"),
    _check("parent_link_order", "ended_revision >= revision"),
    # the ended ones too: for those who ask what was, and so that a parent can be buried
    Index("parent_link_children", "parent_id", "ended_revision"),
)

service = Table(
    "service",
    metadata,
    Column("instance_id", Uuid, ForeignKey("instance.id", name="service_instance", ondelete="CASCADE")),
    Column("ordinal", SmallInteger, nullable=False),
    Column("type", SmallInteger, nullable=False),
    Column("host", Text, nullable=False),
    Column("port", Integer, nullable=False),
    Column("path", Text, nullable=False, server_default=text("''")),
    Column("revision", BigInteger, nullable=False),
    PrimaryKeyConstraint("instance_id", "ordinal", name="service_pkey"),
    _check("service_ordinal_range", "ordinal between 0 and 31"),
    _check("service_type_known", "type between 1 and 2"),
    _check("service_host_length", "char_length(host) between 1 and 253"),
    _check("service_port_range", "port between 1 and 65535"),
    _check("service_path_length", "char_length(path) <= 1024"),
    # md5, since a path of 1,024 characters does not fit into an index row; no host or path holds a line feed
    Index("service_once", "instance_id", "type", "port", text("md5((host || chr(10)) || path)"), unique=True),
)

heartbeat = Table(
    "heartbeat",
    metadata,
    Column("instance_id", Uuid, nullable=False),
    Column("timeout", Interval, nullable=False),
    _moment("last_seen"),
    Column("told_stale", Boolean, nullable=False, server_default=text("false")),
    Column("stretch", REAL, nullable=False, server_default=text("1")),
    PrimaryKeyConstraint("instance_id", name="heartbeat_pkey"),
    # narrow, half empty and without another index, so that every update stays on its page
    postgresql_with={
        "fillfactor": 50,
        "autovacuum_vacuum_scale_factor": 0,
        "autovacuum_vacuum_threshold": 20000,
        "autovacuum_vacuum_cost_delay": 0,
    },
)

event = Table(
    "event",
    metadata,
    Column("revision", BigInteger, nullable=False),
    Column("ordinal", Integer, nullable=False),
    Column("type", SmallInteger, nullable=False),
    Column("instance_id", Uuid, nullable=False),
    Column("related_id", Uuid),
    Column("service", JSONB),
    Column("before", JSONB),
    Column("after", JSONB),
    Column("cause", SmallInteger),
    Column("root_cause", Uuid),
    Column("actor", Text, nullable=False),
    Column("note", Text, nullable=False, server_default=text("''")),
    Column("xid", BigInteger, nullable=False, server_default=text("pg_current_xact_id()::text::bigint")),
    Column("nonce", Integer, nullable=False),
    _moment("at"),
    PrimaryKeyConstraint("revision", "ordinal", name="event_pkey"),
    _check("event_type_known", "type between 1 and 8"),
    _check("event_cause_known", "cause between 1 and 3"),
    _check("event_order", "revision > 0 and ordinal >= 0"),
    _check("event_removed_has_cause", "(type = 2) = (cause is not null and root_cause is not null)"),
    Index("event_of", "instance_id", "revision", "ordinal"),
    Index("event_staleness", "instance_id", "revision", "ordinal", postgresql_where=text("type in (6, 7)")),
)

# what the event of a death said, once it is trimmed: of those whose death it was, for as long as they are remembered
epitaph = Table(
    "epitaph",
    metadata,
    Column("instance_id", Uuid, nullable=False),
    Column("actor", Text, nullable=False),
    Column("note", Text, nullable=False),
    PrimaryKeyConstraint("instance_id", name="epitaph_pkey"),
)

history_epoch = Table(
    "history_epoch",
    metadata,
    Column("number", Integer, nullable=False, autoincrement=False),
    Column("epoch", Uuid, nullable=False, server_default=func.gen_random_uuid()),
    Column("system_identifier", BigInteger, nullable=False),
    Column("timeline", Integer, nullable=False),
    Column("database_oid", BigInteger, nullable=False),
    Column("event_oid", BigInteger, nullable=False),
    Column("base_revision", BigInteger, nullable=False),
    Column("opened_at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
    Column("reason", Text, nullable=False),
    PrimaryKeyConstraint("number", name="history_epoch_pkey"),
    UniqueConstraint("epoch", name="history_epoch_once"),
)

control = Table(
    "control",
    metadata,
    Column("one", Boolean, nullable=False, server_default=text("true")),
    _moment("ticked_at"),
    _moment("grace_from", optional=True),
    _moment("grace_until", optional=True),
    Column("grace_spent", Interval, nullable=False, server_default=text("interval '0'")),
    Column("rate_tokens", Double, nullable=False, server_default=text("0")),
    Column("compacted_revision", BigInteger, nullable=False, server_default=text("0")),
    Column("compacted_ordinal", Integer, nullable=False, server_default=text("0")),
    Column("compacted_nonce", Integer, nullable=False, server_default=text("0")),
    Column("metrics_kept", Interval, nullable=False, server_default=text("interval '30 days'")),
    Column("history_kept", Interval, nullable=False, server_default=text("interval '7 days'")),
    Column("tombstones_kept", Interval, nullable=False, server_default=text("interval '30 days'")),
    Column("serves_from", Text, nullable=False),
    _moment("grace_at", optional=True),
    Column("stretch", Double, nullable=False, server_default=text("1")),
    Column("judged_for", Interval, nullable=False, server_default=text("interval '10 seconds'")),
    Column("buried_revision", BigInteger, nullable=False, server_default=text("0")),
    Column("restored", Text),
    Column("minutes_kept", Interval, nullable=False, server_default=text("interval '90 days'")),
    Column("hours_kept", Interval, nullable=False, server_default=text("interval '400 days'")),
    Column("trail_kept", Interval, nullable=False, server_default=text("interval '400 days'")),
    Column("denied_kept", Interval, nullable=False, server_default=text("interval '400 days'")),
    PrimaryKeyConstraint("one", name="control_pkey"),
    _check("control_one_row", "one"),
    _check("control_grace_wholly", "num_nulls(grace_from, grace_until) in (0, 2)"),
    _check("control_metrics_kept_range", "metrics_kept >= interval '1 day'"),
    _check("control_history_kept_range", "history_kept >= interval '1 second'"),
    _check("control_tombstones_outlive_history", "tombstones_kept >= history_kept"),
    _check("control_stretch_range", "stretch >= 1"),
    _check("control_trail_kept_range", "trail_kept >= interval '30 days'"),
    _check("control_denied_kept_range", "denied_kept >= interval '30 days'"),
)

trail = Table(
    "trail",
    metadata,
    Column("number", BigInteger, nullable=False, autoincrement=False),
    _moment("at"),
    Column("first_revision", BigInteger),
    Column("revision", BigInteger),
    Column("acts", JSON, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    PrimaryKeyConstraint("number", name="trail_pkey"),
    _check("trail_number_positive", "number > 0"),
    _check("trail_revisions_wholly", "num_nulls(first_revision, revision) in (0, 2)"),
    _check("trail_order", "first_revision <= revision"),
    _check("trail_hash_length", "octet_length(hash) = 32"),
)

trail_seal = Table(
    "trail_seal",
    metadata,
    Column("number", BigInteger, nullable=False, autoincrement=False),
    Column("revision", BigInteger, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
    PrimaryKeyConstraint("number", name="trail_seal_pkey"),
    _check("trail_seal_hash_length", "octet_length(hash) = 32"),
)

# Calls that were turned away, by the hour; `code` is gRPC's number
denied_call = Table(
    "denied_call",
    metadata,
    _moment("since"),
    Column("who", Text, nullable=False),
    Column("address", Text, nullable=False),
    Column("method", Text, nullable=False),
    Column("code", SmallInteger, nullable=False),
    Column("calls", BigInteger, nullable=False),
    _moment("last_at"),
    PrimaryKeyConstraint("since", "who", "address", "method", "code", name="denied_call_pkey"),
    _check("denied_call_who_length", "char_length(who) <= 253"),
    _check("denied_call_address_length", "char_length(address) <= 253"),
    _check("denied_call_method_length", "char_length(method) between 1 and 253"),
    _check("denied_call_code_known", "code in (7, 16)"),
    _check("denied_call_calls_positive", "calls > 0"),
)

reaper_group = Table(
    "reaper_group",
    metadata,
    Column("type", SmallInteger, nullable=False),
    Column("hostname", Text, nullable=False),
    Column("state", SmallInteger, nullable=False),
    _moment("since"),
    _moment("calm_since", optional=True),
    Column("stopped", Interval, nullable=False, server_default=text("interval '0'")),
    _moment("stopped_at", optional=True),
    Column("tokens", Double, nullable=False, server_default=text("0")),
    PrimaryKeyConstraint("type", "hostname", name="reaper_group_pkey"),
    _check("reaper_group_state_known", "state between 0 and 2"),
)


def _amount(name: str) -> Column[Any]:
    return Column(name, BigInteger, nullable=False)


PROXY = ("active_connections", "total_connections", "bytes_sent", "bytes_received")
SYSTEM = ("used_memory_bytes", "total_memory_bytes")
LLM = ("request_count", "tokens_received", "tokens_sent")


def _gpu() -> list[Column[Any]]:
    return [
        Column("gpu_index", SmallInteger, nullable=False),
        *map(_amount, SYSTEM),
        Column("utilization_percent", Double, nullable=False),
    ]


def _history(name: str, values: Sequence[SchemaItem]) -> Table:
    """Every sample, by day of arrival; no key, since nothing about a sample is unique."""
    return Table(
        name,
        metadata,
        _moment("at"),
        Column("instance_id", Uuid, nullable=False),
        _moment("measured_at"),
        *values,
        Index(f"{name}_of", "instance_id", "at"),
        _arrival(name),
        postgresql_partition_by="RANGE (at)",
    )


def _arrival(name: str) -> Index:
    """What finds the last few minutes: rows come in the order of their time, so that the smallest index does."""
    options = {"pages_per_range": 32, "autosummarize": "on"}
    return Index(f"{name}_at", "at", postgresql_using="brin", postgresql_with=options)


def _rolled(name: str, values: Callable[[], list[Column[Any]]], *sums: Column[Any], key: str = "") -> None:
    """What the samples came to in each minute and each hour: the highest of each value, then the sums."""
    for level in ("minutes", "hours"):
        first, *others = values()
        Table(
            f"{name}_{level}",
            metadata,
            _moment("at"),
            Column("instance_id", Uuid, nullable=False),
            *([first] if key else []),
            Column("samples", BigInteger, nullable=False),
            _moment("last_at"),
            *([] if key else [first]),
            *others,
            *(Column(each.name, each.type, nullable=False) for each in sums),
            PrimaryKeyConstraint("instance_id", *([key] if key else []), "at", name=f"{name}_{level}_pkey"),
            _arrival(f"{name}_{level}"),
            postgresql_partition_by="RANGE (at)",
        )


def _latest(name: str, values: Sequence[SchemaItem], *key: str) -> Table:
    """The sample of each living instance that arrived last."""
    return Table(
        f"latest_{name}",
        metadata,
        _moment("at"),
        Column("instance_id", Uuid, nullable=False),
        _moment("measured_at"),
        *values,
        PrimaryKeyConstraint("instance_id", *key, name=f"latest_{name}_pkey"),
        postgresql_with={"fillfactor": 70},
    )


system_metrics = _history("system_metrics", [*map(_amount, SYSTEM)])
proxy_metrics = _history("proxy_metrics", [*map(_amount, PROXY)])
gpu_metrics = _history("gpu_metrics", _gpu())
llm_metrics = _history("llm_metrics", [*map(_amount, LLM)])
latest_system_metrics = _latest("system_metrics", [*map(_amount, SYSTEM)])
latest_proxy_metrics = _latest("proxy_metrics", [*map(_amount, PROXY)])
latest_gpu_metrics = _latest("gpu_metrics", _gpu(), "gpu_index")
latest_llm_metrics = _latest("llm_metrics", [*map(_amount, LLM)])


def _sum(name: str) -> Column[Any]:
    """Of posted values, which added up are more than a bigint holds."""
    return Column(name, Numeric, nullable=False)


_rolled("system_metrics", lambda: [*map(_amount, SYSTEM)], _sum("used_memory_sum"))
_rolled(
    "proxy_metrics",
    lambda: [*map(_amount, PROXY)],
    *map(_sum, ("active_sum", "connections_grown", "sent_grown", "received_grown")),
)
_rolled("gpu_metrics", _gpu, _sum("used_memory_sum"), Column("utilization_sum", Double), key="gpu_index")
_rolled("llm_metrics", lambda: [*map(_amount, LLM)], *map(_sum, ("requests_grown", "received_grown", "sent_grown")))

metrics_rollup = Table(
    "metrics_rollup",
    metadata,
    Column("name", Text, nullable=False),
    # how far samples, or minutes, are rolled up into the table of that name; null: none yet
    _moment("done_until", optional=True),
    PrimaryKeyConstraint("name", name="metrics_rollup_pkey"),
)

host_stats = Table(
    "host_stats",
    metadata,
    Column("hostname", Text, nullable=False),
    _moment("at"),
    _moment("measured_at"),
    *map(_amount, SYSTEM),
    PrimaryKeyConstraint("hostname", name="host_stats_pkey"),
    _check("host_stats_hostname_length", "char_length(hostname) between 1 and 253"),
)

# Who may call. Of a token there is the SHA-256 alone; of a certificate that of the URI in it, and the URI.
token = Table(
    "token",
    metadata,
    Column("id", Uuid, nullable=False, server_default=func.gen_random_uuid()),
    Column("name", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Column("uri", Text),
    Column("instance_id", Uuid),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
    _moment("expires_at", optional=True),
    _moment("revoked_at", optional=True),
    _moment("last_used_at", optional=True),
    PrimaryKeyConstraint("id", name="token_pkey"),
    _check("token_name_length", "char_length(name) between 1 and 253"),
    _check("token_role_known", "role in ('reader', 'instance', 'registrar', 'operator', 'admin')"),
    _check("token_hash_length", "octet_length(hash) = 32"),
    _check("token_uri_length", "char_length(uri) between 1 and 2048"),
    _check("token_instance_of_its_role", "(role = 'instance') = (instance_id is not null)"),
    Index("token_hash", "hash", unique=True, postgresql_where=text("revoked_at is null")),
    Index("token_name", "name"),
    Index("token_revoked", "revoked_at", postgresql_where=text("revoked_at is not null")),
    Index("token_instance", "instance_id", postgresql_where=text("instance_id is not null")),
)
