"""Starts that would leave a manager open to strangers: each is refused with its sentence, and exit code 78."""

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path
from urllib.request import urlopen

import asyncpg
import pytest

from manager import certificates
from manager.repository.database import Session, engine_of
from manager.repository.privileges import beyond, unverified
from manager.safety import loopback
from manager.settings import Settings, Transport
from tests.conftest import PASSWORD, Database, at, serving
from tests.processes import Ended, imctl, started

FAR = "10.99.0.1"  # of nobody here: what is refused does not come so far as to listen
CHOICE = "       --insecure-i-know serves all the same"
NO_TLS = f"there is no TLS on {FAR}, which is no loopback address: set IM_TLS_CERT and IM_TLS_KEY"
NO_AUTH = f"nobody is asked who calls on {FAR}, which is no loopback address: set IM_AUTH=true"


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority, and a manager's certificate."""
    folder = tmp_path_factory.mktemp("tls")
    by = certificates.authority("test")
    by.write(folder, "ca")
    certificates.for_server(by, ["127.0.0.1"], certificates.AUTHORITY_LASTS).write(folder, "server")
    return folder


def secured(tls: Path) -> dict[str, str]:
    """The settings of TLS."""
    return {"IM_TLS_CERT": str(tls / "server.pem"), "IM_TLS_KEY": str(tls / "server.key")}


async def refused(*arguments: str, **variables: str) -> Ended:
    """A start that is none."""
    return await imctl("serve", "--port", "0", *arguments, IM_INSECURE_I_KNOW="", **variables)


def told(*sentences: str, choice: bool = True) -> str:
    """What is said on stderr, to the letter."""
    return "".join(f"{line}\n" for line in (*(f"imctl: {each}" for each in sentences), *([CHOICE] if choice else [])))


# the network


async def test_1_every_address_is_the_default_and_wants_tls_and_credentials(database: Database) -> None:
    ended = await refused(DATABASE_URL=database.url)
    expected = told(NO_TLS.replace(FAR, "[::]"), NO_AUTH.replace(FAR, "[::]"))
    assert (ended.code, ended.out, ended.err) == (78, "", expected)


async def test_2_an_address_of_the_network_without_tls_and_credentials(database: Database) -> None:
    ended = await refused("--bind", FAR, DATABASE_URL=database.url)
    assert (ended.code, ended.err) == (78, told(NO_TLS, NO_AUTH))


async def test_3_credentials_without_tls(database: Database) -> None:
    ended = await refused("--bind", FAR, DATABASE_URL=database.url, IM_AUTH="true")
    assert (ended.code, ended.err) == (78, told(NO_TLS))


async def test_4_tls_without_credentials(database: Database, tls: Path) -> None:
    ended = await refused("--bind", FAR, DATABASE_URL=database.url, **secured(tls))
    assert (ended.code, ended.err) == (78, told(NO_AUTH))


async def test_5_one_address_of_several_is_enough(database: Database) -> None:
    ended = await refused("--bind", "127.0.0.1", "--bind", FAR, DATABASE_URL=database.url, IM_AUTH="true")
    assert (ended.code, ended.err) == (78, told(NO_TLS))


async def test_6_workers_are_no_way_around(database: Database) -> None:
    ended = await refused("--bind", FAR, "--workers", "2", DATABASE_URL=database.url)
    assert (ended.code, ended.err) == (78, told(NO_TLS, NO_AUTH))


async def test_7_nor_is_development() -> None:
    ended = await imctl("dev", "--ephemeral", "--port", "0", "--bind", FAR, IM_INSECURE_I_KNOW="")
    assert (ended.code, ended.err) == (78, told(NO_TLS, NO_AUTH))


@pytest.mark.parametrize("transport", Transport)
async def test_8_a_key_that_is_not_the_certificate_s(database: Database, tls: Path, transport: str) -> None:
    other = certificates.for_server(certificates.authority("other"), ["127.0.0.1"], timedelta(days=1))
    folder = tls / f"other-{transport}"
    folder.mkdir()
    other.write(folder, "server")
    variables = secured(tls) | {"IM_TLS_KEY": str(folder / "server.key"), "IM_TRANSPORT": transport}
    ended = await refused("--bind", FAR, DATABASE_URL=database.url, IM_AUTH="true", **variables)
    sentence = "IM_TLS_CERT, IM_TLS_KEY or IM_TLS_CLIENT_CA is not what it has to be, in PEM and without a password:"
    assert (ended.code, ended.err) == (78, told(f"{sentence} KEY_VALUES_MISMATCH", choice=False))


# keys


async def test_9_a_key_that_others_may_read(database: Database, tls: Path) -> None:
    key = tls / "loose.key"
    key.write_bytes((tls / "server.key").read_bytes())
    key.chmod(0o644)
    variables = secured(tls) | {"IM_TLS_KEY": str(key)}
    ended = await refused("--bind", "127.0.0.1", DATABASE_URL=database.url, **variables)
    sentence = f"the key in IM_TLS_KEY can be read by others, its mode is 0644: chmod 600 {key}"
    assert (ended.code, ended.err) == (78, told(sentence))


@pytest.mark.parametrize(
    ("left_out", "sentence"),
    [
        ("IM_TLS_KEY", "IM_TLS_CERT is set without IM_TLS_KEY: set both, or neither"),
        ("IM_TLS_CERT", "IM_TLS_KEY is set without IM_TLS_CERT: set both, or neither"),
    ],
)
async def test_10_half_of_tls_is_none(database: Database, tls: Path, left_out: str, sentence: str) -> None:
    variables = {name: value for name, value in secured(tls).items() if name != left_out}
    ended = await refused("--bind", "127.0.0.1", DATABASE_URL=database.url, **variables)
    assert (ended.code, ended.err) == (78, told(sentence, choice=False))


async def test_11_certificates_of_clients_without_tls_and_files_that_are_not_there(database: Database) -> None:
    ended = await refused("--bind", "127.0.0.1", DATABASE_URL=database.url, IM_TLS_CLIENT_CA="/nowhere/ca.pem")
    first = "IM_TLS_CLIENT_CA is set without IM_TLS_CERT: certificates of clients are shown over TLS alone"
    second = "IM_TLS_CLIENT_CA is /nowhere/ca.pem, and there is no such file"
    assert (ended.code, ended.err) == (78, told(first, second, choice=False))


# the database


@pytest.fixture
async def role(database: Database) -> AsyncIterator[str]:
    """A role of the server's rights, which may log in."""
    name = f"{database.name}_role"
    await database.run(f"create role {name} login password '{PASSWORD}' in role im_server")
    yield name
    connection = await asyncpg.connect(database.admin)
    await connection.execute(f"drop owned by {name}")
    await connection.execute(f"drop role {name}")
    await connection.close()


def by(database: Database, role: str) -> str:
    """The database's address for a role."""
    return at(database.url, database=database.name, user=role, password=PASSWORD)


async def test_12_a_superuser(database: Database) -> None:
    ended = await refused("--bind", "127.0.0.1", DATABASE_URL=database.admin)
    who = await database.value("select session_user")
    assert (ended.code, ended.err) == (78, told(f"the database's role {who} is a superuser: serve as im_server"))


async def test_13_whoever_may_become_the_owner_of_the_tables(database: Database, role: str) -> None:
    await database.run(f"grant im_owner to {role}")
    ended = await refused("--bind", "127.0.0.1", DATABASE_URL=by(database, role))
    sentences = [
        f"the database's role {role} owns tables: serve as im_server",
        f"the database's role {role} may change the schema: serve as im_server",
        f"the database's role {role} may change the past: serve as im_server",
    ]
    assert (ended.code, ended.err) == (78, told(*sentences))


async def test_14_whoever_may_make_tables(database: Database, role: str) -> None:
    await database.run(f"grant create on schema public to {role}")
    ended = await refused("--bind", "127.0.0.1", DATABASE_URL=by(database, role))
    sentence = f"the database's role {role} may change the schema: serve as im_server"
    assert (ended.code, ended.err) == (78, told(sentence))


@pytest.mark.parametrize(
    ("granted", "sentence"),
    [
        ("alter role {} createrole", "may change the schema"),
        ("grant create on schema audit to {}", "may change the schema"),
        ("grant update (actor) on event to {}", "may change the past"),
        ("grant delete on trail to {}", "may change the past"),
        ("grant truncate on instance_version to {}", "may change the past"),
        ("grant im_retention to {}", "may shorten what is kept"),
        ("alter role {} noinherit; grant im_retention to {}", "may shorten what is kept"),
        ("alter role {} replication", "may replicate, and so read every file"),
        ("alter role {} bypassrls", "is above row-level security"),
        ("grant pg_write_all_data to {}", "is in pg_write_all_data"),
        ("alter role {} noinherit; grant pg_execute_server_program to {}", "is in pg_execute_server_program"),
    ],
)
async def test_14_whoever_may_do_more_than_serve(database: Database, role: str, granted: str, sentence: str) -> None:
    for each in granted.split("; "):
        await database.run(each.format(role))
    found = await beyond_of(by(database, role))
    assert f"the database's role {role} {sentence}: serve as im_server" in found
    # what writes all tables writes the past too
    assert len(found) == 1 or "pg_write_all_data" in granted


async def test_14_a_superuser_by_another_name(database: Database, role: str) -> None:
    superuser = await database.value("select session_user")
    await database.run(f"alter role {role} noinherit")
    await database.run(f'grant "{superuser}" to {role}')
    ended = await refused("--bind", "127.0.0.1", DATABASE_URL=by(database, role))
    told_ = told(f"the database's role {role} may become a superuser: serve as im_server")
    assert (ended.code, ended.err) == (78, told_)


async def beyond_of(url: str) -> Sequence[str]:
    """What a start as this role would be refused for."""
    session = Session(engine_of(url, name="test"))
    async with session.use() as connection:
        found = await beyond(connection)
    await session.close()
    return found


async def test_14_the_server_s_own_role_may_do_nothing_more(database: Database, role: str) -> None:
    assert await beyond_of(database.url) == []
    assert await beyond_of(by(database, role)) == []


async def test_15_workers_may_not_do_more_either(database: Database) -> None:
    ended = await refused("--bind", "127.0.0.1", "--workers", "2", DATABASE_URL=database.admin)
    assert ended.code == 78
    assert "is a superuser: serve as im_server" in ended.err


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgresql://im_server@db.example/fleet", ["db.example"]),
        ("postgresql://im_server@db.example:6432/fleet?sslmode=require", ["db.example:6432"]),
        ("postgresql://im_server@db.example/fleet?sslmode=verify-ca", ["db.example"]),
        ("postgresql://im_server@10.0.0.9,localhost/fleet", ["10.0.0.9"]),
        ("postgresql://im_server@/fleet?host=db.example", ["db.example"]),
        ("postgresql://im_server@db.example/fleet?sslmode=verify-full", []),
        ("postgresql://im_server@localhost/fleet", []),
        ("postgresql://im_server@[::1]:5433/fleet", []),
        ("postgresql://im_server@127.0.0.2/fleet", []),
        ("postgresql:///fleet?host=/run/postgresql", []),
        ("postgresql:///fleet", []),
    ],
)
def test_16_a_database_over_the_network_wants_tls_that_is_verified(url: str, hosts: list[str]) -> None:
    assert unverified(url, {}) == hosts
    assert unverified(url, {"PGSSLMODE": "verify-full"}) == ([] if "sslmode" not in url else hosts)


async def test_16_it_is_said_before_anybody_is_asked_and_with_all_that_is_missing() -> None:
    ended = await refused("--bind", FAR, DATABASE_URL="postgresql://im_server@10.255.255.1/fleet")
    sentence = (
        "the database at 10.255.255.1 is reached without verified TLS: add sslmode=verify-full to its address,"
        " and sslrootcert where its authority is your own"
    )
    assert (ended.code, ended.err) == (78, told(NO_TLS, NO_AUTH, sentence))


async def test_18_all_that_is_wrong_is_said_at_once(database: Database) -> None:
    ended = await refused("--bind", FAR, DATABASE_URL=database.url, IM_TLS_KEY="/nowhere/key.pem")
    half = "IM_TLS_KEY is set without IM_TLS_CERT: set both, or neither"
    lost = "IM_TLS_KEY is /nowhere/key.pem, and there is no such file"
    assert (ended.code, ended.err) == (78, told(half, lost, NO_TLS, NO_AUTH, choice=False))


def test_16_nor_is_the_environment_a_way_around() -> None:
    """PGHOST names the host where the address does not, as libpq and asyncpg have it."""
    assert unverified("postgresql:///fleet", {"PGHOST": "db.example,localhost"}) == ["db.example"]
    assert unverified("postgresql:///fleet", {"PGHOST": "/run/postgresql"}) == []
    assert unverified("postgresql:///fleet", {"PGHOST": "db.example", "PGSSLMODE": "verify-full"}) == []
    assert unverified("postgresql://localhost/fleet", {"PGHOST": "db.example"}) == []


async def test_17_a_database_over_the_network_is_refused_by_its_name(database: Database) -> None:
    name = "127.1"  # which leads here, but is no address as one writes it
    ended = await refused("--bind", "127.0.0.1", DATABASE_URL=database.url.replace("127.0.0.1", name))
    port = database.url.partition("@")[2].partition("/")[0].rpartition(":")[2]
    sentence = f"the database at {name}:{port} is reached without verified TLS: add sslmode=verify-full to its address,"
    assert (ended.code, ended.err) == (78, told(f"{sentence} and sslrootcert where its authority is your own"))


# what may be done all the same


async def test_who_insists_is_served_and_reminded(database: Database) -> None:
    insists = ("serve", "--port", "0", "--bind", "127.0.0.1", "--insecure-i-know")
    async with started(*insists, DATABASE_URL=database.admin, IM_AUTH="true") as running:
        assert "INSECURE       by --insecure-i-know" in running.said


async def test_development_is_named_in_the_banner_and_as_a_gauge(database: Database) -> None:
    cautious = {"DATABASE_URL": database.url, "IM_INSECURE_I_KNOW": ""}
    async with started("serve", "--port", "0", "--bind", "127.0.0.1", **cautious) as running:
        assert "development    no credentials are asked for" in running.said
        page = next(line for line in running.said.splitlines() if "console" in line).split()[-1]
        with urlopen(f"{page}/metrics") as metrics:
            assert "im_unauthenticated 1.0" in metrics.read().decode()


@pytest.mark.parametrize(
    ("host", "near"),
    [
        ("127.0.0.1", True), ("127.8.8.8", True), ("[::1]", True), ("localhost", True), ("[::]", False),
        ("0.0.0.0", False), ("10.0.0.1", False), ("example.org", False), ("[fe80::1]", False),
    ],
)  # fmt: skip
def test_loopback_is_what_nobody_else_reaches(host: str, near: bool) -> None:
    assert loopback(host) is near


async def test_what_auditors_may_beyond_asking_is_told_at_the_start(
    database: Database, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(settings):
        assert "im_auditor may" not in caplog.text
    await database.run(f"grant temporary on database {database.name} to public")
    async with serving(settings):
        assert "im_auditor may make temporary tables: run `imctl migrate` once as a superuser" in caplog.text
