"""`imctl audit`, as whoever has to rely on it meets it."""

import asyncio
import json
import re

from manager.cli.output import Format
from manager.settings import LogFormat
from tests.cli.scene import Scene
from tests.conftest import Database
from tests.processes import imctl, started


async def test_a_whole_trail_is_told_with_its_head_and_a_forged_one_fails(scene: Scene) -> None:
    one = await scene.add()
    await scene.kill(one, "why not")
    url = scene.database.admin
    (whole,) = await scene.runs([["audit", "verify", "-o", "json"]], DATABASE_URL=url)
    assert whole.code == 0, whole.err
    head = json.loads(whole.out)["head"]
    (known, wrong) = await scene.runs(
        [["audit", "verify", "--head", head], ["audit", "verify", "--head", "yesterday's"]], DATABASE_URL=url
    )
    assert (known.code, wrong.code) == (0, 2)
    await scene.database.run("alter table trail disable trigger user")
    number = int(head.partition(":")[0])
    await scene.database.run(f"update trail set acts = '[]' where number = {number}")
    await scene.database.run("alter table trail enable trigger user")
    (forged,) = await scene.runs([["audit", "verify"]], DATABASE_URL=url)
    assert forged.code == 1
    assert f"row {number} of the trail is not as it was written" in forged.err


ANEW = """
do $$ declare last bytea; r record; begin
    select hash into last from trail_seal;
    for r in select * from trail order by number loop
        last := trail_hash(last, r.number, r.at, r.first_revision, r.revision, r.acts);
        update trail set hash = last where number = r.number;
    end loop;
end $$
"""


async def test_a_head_that_a_manager_has_logged_finds_out_who_writes_the_trail_anew(database: Database) -> None:
    """In words and as JSON: a log that was shipped elsewhere is the witness."""
    heads = []
    for form in LogFormat:
        given = {
            "DATABASE_URL": database.url,
            "IM_HTTP": "false",
            "IM_UPKEEP_INTERVAL": "1",
            "IM_LOG_FORMAT": form.value,
        }
        before = await head(database)
        async with started("serve", "--bind", "127.0.0.1", "--port", "0", **given) as running:
            while await head(database) == before:  # until it has registered itself
                await asyncio.sleep(0.05)
            await asyncio.sleep(2)  # and has swept once more
            ended = await running.stop()
        said = running.said + ended.err
        told = re.findall(r"the head of the trail is (\d+:[0-9a-f]{64})\b", said)
        assert told, said
        heads.append(told[-1])
    whole = [await imctl("audit", "verify", "--head", each, DATABASE_URL=database.admin) for each in heads]
    assert [(each.code, each.err) for each in whole] == [(0, "")] * len(heads)
    await database.run("alter table trail disable trigger user")
    await database.run("update trail set acts = cast(replace(cast(acts as text), '\"ADD\"', '\"ADE\"') as json)")
    await database.run(ANEW)
    await database.run("alter table trail enable trigger user")
    assert (await imctl("audit", "verify", DATABASE_URL=database.admin)).code == 0  # by itself it is whole again
    for each in heads:
        forged = await imctl("audit", "verify", "--head", each, DATABASE_URL=database.admin)
        assert (forged.code, f"does not lead to {each}" in forged.err) == (1, True)


async def head(database: Database) -> int:
    """The number of the newest row."""
    number: int = await database.value("select coalesce(max(number), 0) from trail")
    return number


async def test_who_was_denied_is_listed_in_every_format(scene: Scene) -> None:
    await scene.database.run("""
        insert into denied_call (since, who, address, method, code, calls, last_at)
        values (date_trunc('hour', now()), '', '10.0.0.9', '/live', 16, 7, now()),
               (date_trunc('hour', now()), 'ann', '10.0.0.1', '/instance_manager.TryService/TryKillInstance', 7, 2,
                now() - interval '1 minute')
    """)
    lines = [["audit", "denied", "-o", each, "-q"] for each in Format]
    ended = await scene.runs(lines, DATABASE_URL=scene.database.url)
    assert [(each.code, each.err) for each in ended] == [(0, "")] * len(Format)
    told = dict(zip(Format, (each.out for each in ended), strict=True))
    one, other = json.loads(told[Format.JSON])
    assert (one["who"], one["address"], one["code"], one["calls"]) == ("", "10.0.0.9", "UNAUTHENTICATED", 7)
    assert (other["who"], other["code"], other["calls"]) == ("ann", "PERMISSION_DENIED", 2)
    assert told[Format.NAME].split() == ["10.0.0.9", "ann"]
    assert all("10.0.0.9" in each for each in told.values())


async def test_an_operators_word_is_on_the_trail(scene: Scene) -> None:
    await scene.runs([["admin", "grace"]], DATABASE_URL=scene.database.url)
    await scene.runs([["admin", "new-epoch", "--reason", "a disk"]], DATABASE_URL=scene.database.url)
    acts = await scene.database.run(
        "select act, who, note from audit.acts where act in ('GRACE', 'NEW_EPOCH') order by number"
    )
    assert [each["act"] for each in acts] == ["GRACE", "NEW_EPOCH"]
    assert all(each["who"].endswith(" by imctl") for each in acts)
    assert acts[0]["note"].startswith("until ")
    assert acts[1]["note"] == "a disk"


async def test_what_is_kept_is_shortened_by_whoever_may_and_by_nobody_else(scene: Scene) -> None:
    shorter = {"IM_TRAIL_RETENTION": str(60 * 86400), "IM_HISTORY_RETENTION": "3600"}
    lines = [["admin", "retention", "-o", "json"]]
    (refused,) = await scene.runs(lines, DATABASE_URL=scene.database.url, **shorter)
    assert (refused.code, refused.out) == (1, "")
    assert "shortened by a member of im_retention, or a superuser, alone" in refused.err
    assert "create role somebody login in role im_retention" in refused.err
    (done,) = await scene.runs(lines, DATABASE_URL=scene.database.admin, **shorter)
    assert json.loads(done.out)["result"] == "history from 7 days to 3600 s, trail from 400 days to 60 days"
    (again,) = await scene.runs(lines, DATABASE_URL=scene.database.admin, **shorter)
    assert json.loads(again.out)["result"] == "nothing is kept for longer than the settings say"
    (act,) = await scene.database.run("select who, note from audit.acts where act = 'RETENTION'")
    assert act["who"].endswith(" by imctl")
    assert act["note"] == "history from 7 days to 3600 s, trail from 400 days to 60 days"
