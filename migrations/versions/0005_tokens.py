"""Who may call: tokens and the names in certificates, with their roles."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

TABLE = (
    """
create table token (
    id uuid not null default gen_random_uuid(),
    name text not null,
    role text not null,
    hash bytea not null,
    uri text,
    instance_id uuid,
    created_at timestamptz not null default clock_timestamp(),
    expires_at timestamptz,
    revoked_at timestamptz,
    last_used_at timestamptz,
    constraint token_pkey primary key (id),
    constraint token_name_length check (char_length(name) between 1 and 253),
    constraint token_role_known check (role in ('reader', 'instance', 'registrar', 'operator', 'admin')),
    constraint token_hash_length check (octet_length(hash) = 32),
    constraint token_uri_length check (char_length(uri) between 1 and 2048),
    constraint token_instance_of_its_role check ((role = 'instance') = (instance_id is not null))
)""",
    # a name in a certificate may be revoked and granted again; of a token's hash there is only ever one
    "create unique index token_hash on token (hash) where revoked_at is null",
    "create index token_name on token (name)",
    "create index token_revoked on token (revoked_at) where revoked_at is not null",
    "create index token_instance on token (instance_id) where instance_id is not null",
    # nobody else may look into it, the auditor least of all: it is asked by whoever asks questions
    "grant select, insert, update, delete on token to im_server",
)


def upgrade() -> None:
    for statement in TABLE:
        op.execute(statement)


def downgrade() -> None:
    op.execute("drop table token")
