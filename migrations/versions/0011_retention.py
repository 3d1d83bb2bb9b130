"""How long things are kept can be lengthened by the server, and shortened by im_retention alone.

The server may have deleted what is past its retention. So it must not set that, nor where the history was cut off; of
`control` it has the columns that it writes, each by name. And the trail is chained whoever replicates into it.
"""

import re

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

KEPT = "metrics_kept, history_kept, tombstones_kept, minutes_kept, hours_kept, trail_kept, denied_kept"

# What a server would shorten stays as it is, and is no error: managers of the release before write all of it at each
# round of upkeep, and of two managers with different settings the one that keeps longer has its way.
KEEP_LONGEST = """
create function keep_longest() returns trigger
language plpgsql set search_path = pg_catalog, public, pg_temp as $$
begin
    if not pg_has_role(current_user, 'im_retention', 'member') then
        new.metrics_kept := greatest(new.metrics_kept, old.metrics_kept);
        new.history_kept := greatest(new.history_kept, old.history_kept);
        new.tombstones_kept := greatest(new.tombstones_kept, old.tombstones_kept);
        new.minutes_kept := greatest(new.minutes_kept, old.minutes_kept);
        new.hours_kept := greatest(new.hours_kept, old.hours_kept);
        new.trail_kept := greatest(new.trail_kept, old.trail_kept);
        new.denied_kept := greatest(new.denied_kept, old.denied_kept);
    end if;
    return new;
end $$;

revoke execute on function keep_longest() from public;
"""

TRIGGERS = f"""
create trigger control_keeps_longest before update of {KEPT} on control for each row execute function keep_longest();
alter table control enable always trigger control_keeps_longest;
alter table trail enable always trigger trail_is_chained;
"""

GRANTS = f"""
revoke update on control from im_server;
grant update (ticked_at, judged_for, rate_tokens, stretch, grace_from, grace_at, grace_until, grace_spent, restored,
              {KEPT}) on control to im_server;
grant select, update ({KEPT}) on control to im_retention;
grant select, insert on trail to im_retention;
grant select on trail_seal to im_retention;
grant execute on function trail_hash(bytea, bigint, timestamptz, bigint, bigint, json), compact_history(integer),
    delete_compacted(integer), bury_dead(integer), trim_trail(integer), trim_denied(integer), drop_old_metrics()
    to im_retention;
"""

BEFORE = """
revoke execute on function trail_hash(bytea, bigint, timestamptz, bigint, bigint, json), compact_history(integer),
    delete_compacted(integer), bury_dead(integer), trim_trail(integer), trim_denied(integer), drop_old_metrics()
    from im_retention;
revoke select on trail_seal from im_retention;
revoke select, insert on trail from im_retention;
revoke select, update (metrics_kept, history_kept, tombstones_kept, minutes_kept, hours_kept, trail_kept, denied_kept)
    on control from im_retention;
revoke update (ticked_at, judged_for, rate_tokens, stretch, grace_from, grace_at, grace_until, grace_spent, restored,
               metrics_kept, history_kept, tombstones_kept, minutes_kept, hours_kept, trail_kept, denied_kept)
    on control from im_server;
grant update on control to im_server;
alter table trail enable trigger trail_is_chained;
drop trigger control_keeps_longest on control;
drop function keep_longest();
"""


def _run(script: str) -> None:
    """Each statement by itself; a function's body, between two `$$`, holds semicolons of its own."""
    for statement in re.findall(r"(?:\$\$.*?\$\$|[^;])+", script, re.S):
        if statement.strip():
            op.execute(statement)


def upgrade() -> None:
    for script in (KEEP_LONGEST, TRIGGERS, GRANTS):
        _run(script)


def downgrade() -> None:
    _run(BEFORE)
