"""Calls that were turned away: by whom, from where, of which method, counted by the hour.

A table of its own beside the trail: it is what strangers can fill, and so it is counted and bounded, and not chained.
"""

import re

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

TABLES = """
create table denied_call (
    since timestamptz not null,
    who text not null,
    address text not null,
    method text not null,
    code smallint not null,
    calls bigint not null,
    last_at timestamptz not null,
    constraint denied_call_pkey primary key (since, who, address, method, code),
    constraint denied_call_who_length check (char_length(who) <= 253),
    constraint denied_call_address_length check (char_length(address) <= 253),
    constraint denied_call_method_length check (char_length(method) between 1 and 253),
    constraint denied_call_code_known check (code in (7, 16)),
    constraint denied_call_calls_positive check (calls > 0)
);
alter table control add column denied_kept interval not null default interval '400 days';
-- there is one row to look at
-- squawk-ignore constraint-missing-not-valid
alter table control add constraint control_denied_kept_range check (denied_kept >= interval '30 days');
"""

TRIM = """
create function trim_denied(step integer) returns bigint
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
declare
    gone bigint;
begin
    with oldest as (
        select d.since, d.who, d.address, d.method, d.code
        from public.denied_call d cross join public.control c
        where d.since < clock_timestamp() - greatest(c.denied_kept, interval '30 days') - interval '1 hour'
        order by d.since limit least(step, 100000)
    )
    delete from public.denied_call d using oldest o
    where (d.since, d.who, d.address, d.method, d.code) = (o.since, o.who, o.address, o.method, o.code);
    get diagnostics gone = row_count;
    return gone;
end $$;
"""

GRANTS = """
revoke execute on function trim_denied(integer) from public;
grant execute on function trim_denied(integer) to im_server;
grant select, insert, update (calls, last_at) on denied_call to im_server;
"""

MEANING = "Calls that were turned away, counted by the hour; kept for 400 days, and bounded: see docs/trail.md."

COLUMNS = """
since: The hour, in UTC.
last_at: When one of them was written last, which is a few seconds after it came.
who: By what name; empty where nobody knows.
address: From where; `others` for those that had no row of their own left.
method: What was called: of gRPC, or a path of HTTP.
code: UNAUTHENTICATED for nobody known, PERMISSION_DENIED for somebody who may not.
calls: How many.
"""

QUERY = """
select d.since, d.last_at, d.who, d.address, d.method,
       case d.code when 7 then 'PERMISSION_DENIED' when 16 then 'UNAUTHENTICATED' end, d.calls
from denied_call d
"""


def _run(script: str) -> None:
    """Each statement by itself; a function's body, between two `$$`, holds semicolons of its own."""
    for statement in re.findall(r"(?:\$\$.*?\$\$|[^;])+", script, re.S):
        if statement.strip():
            op.execute(statement)


def _view(name: str, meaning: str, columns: str, query: str) -> None:
    described = [line.partition(": ") for line in columns.strip().splitlines()]
    names = ", ".join(column for column, _, _ in described)
    op.execute(f"create view audit.{name} ({names}) with (security_barrier) as {query}")
    op.execute(f"comment on view audit.{name} is '{meaning}'")
    for column, _, words in described:
        op.execute(f"comment on column audit.{name}.{column} is '{words}'")
    op.execute(f"grant select on audit.{name} to im_auditor")


def upgrade() -> None:
    for script in (TABLES, TRIM, GRANTS):
        _run(script)
    _view("denied_calls", MEANING, COLUMNS, QUERY)


def downgrade() -> None:
    _run("""
    drop view audit.denied_calls;
    drop function trim_denied(integer);
    drop table denied_call;
    alter table control drop column denied_kept
    """)
