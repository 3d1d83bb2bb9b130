"""The roles of the database, one for each kind of work: made by whoever migrates first and may."""

from manager.repository import bars

# Roles belong to the cluster: another database of it may make them at the same moment, and they outlive a downgrade.
MADE = """
do $$
declare
    found record;
begin
    for found in select * from (values
        (1, 'im_owner', 'nologin'),
        (2, 'im_migrator', 'nologin in role im_owner'),
        (3, 'im_server', 'nologin'),
        (4, 'im_retention', 'nologin'),
        (5, 'im_auditor', 'nologin connection limit 5'),
        (6, 'im_backup', 'nologin')
    ) each (place, name, options)
    where not exists (select from pg_roles where rolname = each.name) order by each.place
    loop
        begin
            execute format('create role %I %s', found.name, found.options);
            if found.name = 'im_auditor' then
                -- what it may see are grants; these keep a question that was asked carelessly from being everybody's
                -- burden
                alter role im_auditor set search_path = audit, pg_catalog;
                alter role im_auditor set default_transaction_read_only = on;
                alter role im_auditor set statement_timeout = '30s';
                alter role im_auditor set lock_timeout = '2s';
                alter role im_auditor set idle_in_transaction_session_timeout = '30s';
                alter role im_auditor set max_parallel_workers_per_gather = 0;
                alter role im_auditor set jit = off;
            end if;
        exception
            when duplicate_object or unique_violation then
                null;
            when insufficient_privilege then
                raise insufficient_privilege using message =
                    format('the role %s is not there, and %s may not make it: migrate once as a superuser, or have it'
                           ' made by one: create role %s %s', found.name, current_user, found.name, found.options);
        end;
    end loop;
end $$"""

# What a superuser alone may give: to take backups, and to see who is in a migration's way.
GIVEN = """
do $$
begin
    if not (select rolsuper from pg_roles where rolname = current_user) then
        return;
    end if;
    grant execute on function pg_backup_start(text, boolean), pg_backup_stop(boolean), pg_switch_wal(),
        pg_create_restore_point(text) to im_backup;
    if not (select rolreplication and pg_has_role(oid, 'pg_read_all_data', 'usage') from pg_roles
            where rolname = 'im_backup') then
        alter role im_backup replication;
        grant pg_read_all_data, pg_read_all_settings, pg_read_all_stats to im_backup;
        grant pg_read_all_stats to im_migrator;
    end if;
exception when internal_error or unique_violation then
    null;  -- another database of the cluster was migrated at the same moment
end $$"""

# im_migrator has all of it already, and could give none of it
OWNED = """
do $$
begin
    begin
        execute format('grant im_owner to %I', current_user);
    exception when insufficient_privilege or invalid_grant_operation then
        null;
    end;
    if not has_schema_privilege('im_owner', 'public', 'create') then
        grant create, usage on schema public to im_owner;
    end if;
    -- so that the owner of the tables needs no right to make other schemas
    if to_regnamespace('audit') is null then
        create schema audit authorization im_owner;
    end if;
end $$"""

SET = (MADE, GIVEN, OWNED, bars.SET, "set role im_owner")
