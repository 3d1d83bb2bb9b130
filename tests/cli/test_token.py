"""`imctl token` and `imctl certs`: who may call, said on the command line."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from manager.domain.token import digest, well_formed
from manager.settings import Settings
from tests.conftest import Database, serving
from tests.processes import Ended, imctl, started


async def token(database: Database, *arguments: str) -> Ended:
    """`imctl token` on that database."""
    return await imctl("token", *arguments, DATABASE_URL=database.url)


async def listed(database: Database) -> list[dict[str, Any]]:
    """What `imctl token list` says."""
    found: list[dict[str, Any]] = json.loads((await token(database, "list", "-o", "json")).out)
    return found


async def test_a_token_is_shown_once_and_the_database_has_its_hash(database: Database) -> None:
    made = await token(database, "create", "grafana", "--role", "reader", "-o", "name")
    shown = made.out.strip()
    assert (made.code, well_formed(shown)) == (0, True)
    (row,) = await database.run("select name, role, hash, expires_at - created_at > interval '364 days' from token")
    assert tuple(row) == ("grafana", "reader", digest(shown), True)
    for format_ in ("table", "wide", "json", "csv"):
        told = await token(database, "list", "-o", format_)
        assert "grafana" in told.out
        assert shown not in told.out
    (one,) = await listed(database)
    assert (one["name"], one["role"], one["state"]) == ("grafana", "reader", "valid")


async def test_a_name_is_taken_while_something_valid_has_it(database: Database) -> None:
    await token(database, "create", "pool", "--role", "registrar")
    again = await token(database, "create", "pool", "--role", "admin")
    assert (again.code, "imctl token rotate pool" in again.err) == (1, True)
    await token(database, "revoke", "pool")
    assert (await token(database, "create", "pool", "--role", "admin")).code == 0


async def test_a_rotation_leaves_two_valid_and_the_next_one_ends_the_first(database: Database) -> None:
    made = [(await token(database, "create", "pool", "--role", "registrar", "-o", "name")).out.strip()]
    made += [(await token(database, "rotate", "pool", "-o", "name")).out.strip() for _ in range(2)]
    valid = {each[0] for each in await database.run("select hash from token where revoked_at is null")}
    assert [digest(each) in valid for each in made] == [False, True, True]
    assert {each["role"] for each in await listed(database)} == {"registrar"}
    missing = await token(database, "rotate", "nobody")
    assert (missing.code, "no valid token has the name 'nobody'" in missing.err) == (1, True)


async def test_a_token_is_revoked_by_its_name_or_its_id_once(database: Database) -> None:
    await token(database, "create", "a", "--role", "reader", "--expires", "never")
    made = json.loads((await token(database, "create", "b", "--role", "reader", "-o", "json")).out)[0]
    assert (await token(database, "revoke", made["id"], "-o", "name")).out.strip() == made["id"]
    assert {each["name"]: each["state"] for each in await listed(database)} == {"a": "valid", "b": "revoked"}
    assert (await token(database, "revoke", "b")).code == 1
    assert (await token(database, "revoke", "a")).code == 0


async def test_what_is_said_of_tokens_is_on_the_trail_with_whoever_said_it(database: Database) -> None:
    shown = (await token(database, "create", "pool", "--role", "registrar", "-o", "name")).out.strip()
    await token(database, "rotate", "pool")
    await token(database, "rotate", "nobody")  # and what came to nothing is not
    await token(database, "revoke", "pool")
    acts = await database.run("select act, who, note from audit.acts where act like 'TOKEN%' order by number")
    assert [each["act"] for each in acts] == ["TOKEN_CREATE", "TOKEN_ROTATE", "TOKEN_REVOKE"]
    assert all(each["who"].endswith(" by imctl") and "pool" in each["note"] for each in acts)
    assert not any(shown in each["note"] for each in acts)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("create",), "say for whom and for what"),
        (("create", "a"), "say for whom and for what"),
        (("create", "a", "--role", "king"), "is none of reader, instance, registrar, operator, admin"),
        (("create", "a", "--role", "instance"), "is bound to one"),
        (("create", "a", "--role", "reader", "--instance", "0192f0c1-7a3e-7bbb-8d4e-3a2b1c0d9e8f"), "is bound to one"),
        (("create", "a", "--role", "instance", "--instance", "x"), "is no id"),
        (("create", "a", "--role", "reader", "--spiffe", "http://x"), "does not begin with spiffe://"),
        (("create", "manager x", "--role", "reader"), "a name is up to 100 of"),
        (("create", "ipv4:1.2.3.4", "--role", "reader"), "a name is up to 100 of"),
        (("create", "a", "--role", "reader", "--expires", "soon"), "is no duration"),
        (("give", "a"), "there are only create, rotate, revoke, list"),
    ],
)
async def test_what_makes_no_sense_is_refused_and_nothing_is_made(
    database: Database, arguments: tuple[str, ...], what: str
) -> None:
    ended = await token(database, *arguments)
    assert (ended.code, ended.out, what in ended.err) == (2, "", True)
    assert await database.value("select count(*) from token") == 0


async def test_it_finds_the_database_of_a_running_dev_by_itself() -> None:
    async with started("dev", "--ephemeral", "--port", "0", IM_AUTH="true") as running:
        folder = running.said.split("--data-dir ")[1].split()[0]
        denied = await imctl("get", IM_ADDRESS=running.address)
        assert (denied.code, "IM_TOKEN" in denied.err) == (5, True)
        made = await imctl("token", "create", "me", "--role", "reader", "--data-dir", folder, "-o", "name")
        shown = made.out.strip()
        assert (await imctl("get", IM_ADDRESS=running.address, IM_TOKEN=shown)).code == 0
        held = Path(folder).parent / "token"
        file = await imctl("get", IM_ADDRESS=running.address, IM_TOKEN_FILE=str(held))
        assert (file.code, "cannot be read" in file.err) == (2, True)


async def test_a_token_in_a_file_is_sent_and_shown_nowhere(
    settings: Settings, database: Database, tmp_path: Path
) -> None:
    shown = (await token(database, "create", "me", "--role", "reader", "-o", "name")).out.strip()
    (tmp_path / "token").write_text(shown + "\n")
    async with serving(settings.model_copy(update={"auth": True})) as server:
        at = {"IM_ADDRESS": server.addresses[0], "IM_TOKEN_FILE": str(tmp_path / "token")}
        good = await imctl("get", **at)
        assert good.code == 0
        denied = await imctl("kill", "--yes", server.instance_id, **at)
    assert denied.code == 5
    for ended in (good, denied):
        assert shown not in ended.out + ended.err


async def test_a_schema_without_tokens_is_named(cluster: str) -> None:
    ended = await imctl("token", "list", DATABASE_URL=cluster)
    assert (ended.code, "run `imctl migrate`" in ended.err) == (1, True)


# certificates


async def test_an_authority_is_made_once_and_its_keys_are_for_their_owner_alone(tmp_path: Path) -> None:
    made = await imctl("certs", "init", str(tmp_path / "tls"), "--host", "127.0.0.1", "-o", "json")
    assert made.code == 0, made.err
    paths = [Path(each["path"]) for each in json.loads(made.out)]
    assert sorted(each.name for each in paths) == ["ca.key", "ca.pem", "server.key", "server.pem"]
    for each in paths:
        assert stat.S_IMODE(each.stat().st_mode) == (0o600 if each.suffix == ".key" else 0o644)
    again = await imctl("certs", "init", str(tmp_path / "tls"))
    assert (again.code, "is not written over" in again.err) == (1, True)
    client = await imctl("certs", "client", str(tmp_path / "tls"), "--spiffe", "spiffe://example.org/router")
    assert client.code == 0, client.err
    assert (tmp_path / "tls/router.pem").is_file()


async def test_a_manager_and_imctl_talk_by_what_was_made(database: Database, tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    assert (await imctl("certs", "init", str(folder), "--host", "127.0.0.1")).code == 0
    assert (await imctl("certs", "client", str(folder), "--spiffe", "spiffe://example.org/me")).code == 0
    entry = await token(database, "create", "me", "--role", "reader", "--spiffe", "spiffe://example.org/me")
    assert entry.code == 0, entry.err
    serves = {
        "IM_AUTH": "true", "IM_TLS_CERT": str(folder / "server.pem"), "IM_TLS_KEY": str(folder / "server.key"),
        "IM_TLS_CLIENT_CA": str(folder / "ca.pem"),
    }  # fmt: skip
    everywhere = ("serve", "--port", "0", "--bind", "0.0.0.0")
    async with started(*everywhere, DATABASE_URL=database.url, **serves) as running:
        assert "https://" in running.said
        port = running.said.split("0.0.0.0:")[1].split()[0]
        asks = {
            "IM_ADDRESS": f"127.0.0.1:{port}", "IM_TLS_CA": str(folder / "ca.pem"),
            "IM_TLS_CERT": str(folder / "me.pem"), "IM_TLS_KEY": str(folder / "me.key"),
        }  # fmt: skip
        answered = await imctl("get", **asks)
        assert answered.code == 0, answered.err
        pages = running.said.split("https://localhost:")[1].split()[0]
        looked = await imctl("doctor", "--http-port", pages, "-o", "csv", **asks)
        assert f"https://127.0.0.1:{pages} answers" in looked.out


async def test_the_key_of_an_authority_that_is_not_there_is_asked_for(tmp_path: Path) -> None:
    ended = await imctl("certs", "client", str(tmp_path), "--spiffe", "spiffe://example.org/router")
    assert (ended.code, "imctl certs init" in ended.err) == (1, True)
    assert (await imctl("certs", "client", str(tmp_path))).code == 2
