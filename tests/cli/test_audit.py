"""`imctl audit verify`, as whoever has to rely on it meets it."""

import json

from tests.cli.scene import Scene


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
