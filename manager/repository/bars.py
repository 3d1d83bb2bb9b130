"""What PostgreSQL lets everybody do, and whoever only asks questions must not: hold locks, and fill the disk.

The rights are PUBLIC's: of functions, which a superuser alone may take away, and of the database, which its owner may.
Those of a database do not come along in a dump, nor from a template.
"""

from collections.abc import Sequence

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

# Advisory locks, one of which is held by a turn, and large objects, which are written whatever a transaction says of
# being read-only. What gives locks back stays everybody's: pools call it between two users of a connection. The
# database's owner may take the temporary tables away itself, and a migration of its has to claim its lock before it is
# im_owner. The role is the cluster's: another database of it may change it at the same moment.
SET = """
do $$
declare
    found record;
begin
    if has_database_privilege('im_auditor', current_database(), 'temporary') then
        execute format('revoke temporary on database %I from public', current_database());
    end if;
    if not (select rolsuper from pg_roles where rolname = current_user) then
        return;
    end if;
    for found in
        select p.oid::regprocedure as what, p.proname ~ '^pg_' as ours
        from pg_catalog.pg_proc p
        where p.pronamespace = 'pg_catalog'::regnamespace
          and p.proname ~ '^(pg_(try_)?advisory_(xact_)?lock|lo_|lowrite$|loread$)'
          and (exists (select from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a where a.grantee = 0)
               or p.proname ~ '^pg_' and not has_function_privilege('im_retention', p.oid, 'execute'))
    loop
        execute format('revoke execute on function %s from public', found.what);
        if found.ours then
            execute format('grant execute on function %s to im_owner, im_server, im_retention, pg_database_owner',
                           found.what);
        end if;
    end loop;
    if not exists (select from pg_db_role_setting s, unnest(s.setconfig) each
                   where s.setrole = 'im_auditor'::regrole and each like 'temp_file_limit=%') then
        begin
            alter role im_auditor set temp_file_limit = '1GB';
        exception when internal_error then
            null;
        end;
    end if;
end $$"""

LOOK = text("""
select 'hold the locks of changes' where has_function_privilege('im_auditor', 'pg_advisory_lock(int, int)', 'execute')
union all
select 'write large objects' where has_function_privilege('im_auditor', 'lo_from_bytea(oid, bytea)', 'execute')
union all
select 'make temporary tables' where has_database_privilege('im_auditor', current_database(), 'temporary')
""")


async def missing(connection: AsyncConnection) -> Sequence[str]:
    """What im_auditor may do all the same."""
    return list((await connection.execute(LOOK)).scalars())
