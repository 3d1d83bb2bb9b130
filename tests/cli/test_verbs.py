"""What each verb answers, against a real manager; what holds for all of them is in test_every_verb.py."""

import asyncio
import csv
import io
import json
from datetime import timedelta

import yaml

from manager.client import new_id
from manager.pb.instance_manager_pb2 import BROWSER_BACKEND, VLLM, InstanceRequest
from manager.settings import Settings
from tests.cli.scene import SERVICE, Scene, scene_of
from tests.conftest import Database, serving
from tests.processes import IMCTL, imctl


async def family(scene: Scene) -> tuple[str, str, str, str]:
    """A backend, its two browsers, and a tab of the first."""
    backend = await scene.add(of=BROWSER_BACKEND, hostname="b")
    first = await scene.add(backend, services=[SERVICE], team="search")
    second = await scene.add(backend, hostname="a")
    return backend, first, second, await scene.add(first)


async def test_get_filters_as_the_contract_does(scene: Scene) -> None:
    backend, first, second, tab = await family(scene)
    asked = {
        ("--type", "BROWSER_BACKEND"): {backend},
        ("--type", "vllm"): set(),
        ("--host", "a", "--host", "b"): {backend, second},
        ("--label", "team=search"): {first},
        ("--service", "CHROME_DEBUG_PORT"): {first},
        ("--parent", backend[-12:]): {first, second},
        ("--subtree", first): {first, tab},
        ("--status", "stale"): set(),
        (tab, backend): {tab, backend},
    }
    told = await scene.runs([["get", *arguments, "-o", "name"] for arguments in asked])
    assert [set(each.out.split()) for each in told] == list(asked.values())


async def test_get_shows_the_stale_too_and_says_so_in_a_word(settings: Settings, database: Database) -> None:
    brief = {"reaper_interval": timedelta(seconds=0.1), "outage_grace": timedelta(), "grace": timedelta(hours=1)}
    often = settings.model_copy(update=brief)
    async with serving(often) as server, scene_of(server, database) as scene:
        one = await scene.add()
        await scene.silence(31, one)
        waited = await scene.imctl("wait", one, "--for", "stale", "--timeout", "20", "-o", "csv", "--columns", "status")
        whole, stale = await scene.runs([["get"], ["get", "--status", "stale", "--columns", "id,status"]])
    assert waited.out == "status\nstale\n"
    assert f"{one}  ◐ stale" in whole.out
    assert stale.out.splitlines()[1:] == [f"{one}  ◐ stale"]


async def test_rows_are_sorted_and_columns_chosen(scene: Scene) -> None:
    await family(scene)
    rising, falling, chosen = await scene.runs(
        [
            ["get", "--sort-by", "hostname", "-o", "csv", "--columns", "hostname", "--type", "CHROME_BROWSER"],
            ["get", "--sort-by=-hostname", "-o", "csv", "--columns", "hostname", "--type", "CHROME_BROWSER"],
            ["get", "--columns", "Hostname, id", "--type", "BROWSER_BACKEND"],
        ]
    )
    assert rising.out.split() == ["hostname", "a", "host", "host"]
    assert falling.out.split() == ["hostname", "host", "host", "a"]
    assert chosen.out.split()[:3] == ["HOSTNAME", "ID", "b"]


async def test_an_id_is_known_by_its_beginning_and_by_its_end(scene: Scene) -> None:
    one = await scene.add(instance_id="aaaaaaaa-0000-7000-8000-00000000beef")
    other = await scene.add(instance_id="aaaaaaaa-0000-7000-8000-00000000cafe")
    written = [
        "aaaaaaaa-0000-7000-8000-00000000BEEF",
        "beef",
        "0000beef",
        "8000-00000000beef",
        "cafe",
        "aaaa",
        "dddddd",
    ]
    written += ["lion", "-"]
    told = await scene.runs([["describe", each, "-o", "name"] for each in written])
    assert [each.out.strip() for each in told] == [one, one, one, one, other, "", "", "", ""]
    assert [each.code for each in told] == [0, 0, 0, 0, 0, 2, 3, 2, 2]
    assert one in told[5].err
    assert other in told[5].err
    assert "no id begins or ends with 'dddddd'" in told[6].err


async def test_the_dead_are_known_by_a_part_of_their_id_where_they_are_meant(scene: Scene) -> None:
    one = await scene.add(instance_id="aaaaaaaa-0000-7000-8000-00000000beef")
    await scene.kill(one)
    told = await scene.runs([["describe", "beef", "-o", "name"], ["link", "beef", scene.manager]])
    assert [(each.code, each.out.strip()) for each in told] == [(0, one), (3, "")]


async def test_all_that_is_known_has_its_labels_and_its_timeout(scene: Scene) -> None:
    one = await scene.add(team="search")
    (told,) = await scene.runs([["describe", one]])
    assert "team=search" in told.out
    assert "TIMEOUT" in told.out.upper()


async def test_a_tree_is_drawn_nested_and_listed(scene: Scene) -> None:
    backend, first, second, tab = await family(scene)
    drawn, nested, listed, ordered = await scene.runs(
        [
            ["tree", backend, "--columns", "id"],
            ["tree", backend, "-o", "json"],
            ["tree", backend, "-o", "csv", "--columns", "id,depth"],
            ["tree", backend, "--sort-by", "hostname", "-o", "name"],
        ]
    )
    assert drawn.out.splitlines() == ["ID", backend, f"├─ {first}", f"│  └─ {tab}", f"└─ {second}"]
    (root,) = json.loads(nested.out)
    assert root["instance"]["instance_id"] == backend
    assert [len(each["children"]) for each in root["children"]] == [1, 0]
    assert list(csv.reader(io.StringIO(listed.out)))[1:] == [[backend, "0"], [first, "1"], [tab, "2"], [second, "1"]]
    assert ordered.out.split() == [backend, second, first, tab]


async def test_a_tree_upwards_is_the_line_of_ancestors_dead_ones_too(scene: Scene) -> None:
    backend, first, _, tab = await family(scene)
    await scene.kill(first)
    up, down, none = await scene.runs([["tree", "--up", tab, "--columns", "id"], ["tree", tab], ["tree", "--up"]])
    assert up.out.splitlines() == ["ID", backend, f"└─ {first}", f"   └─ {tab}"]
    assert (down.code, down.out) == (3, "")
    assert none.code == 2


async def test_a_deep_tree_is_drawn_and_not_nested(scene: Scene) -> None:
    parent = top = await scene.add()
    for _ in range(301):
        parent = await scene.add(parent)
    drawn, nested = await scene.runs([["tree", top, "-o", "name"], ["tree", top, "-o", "json"]])
    assert len(drawn.out.split()) == 302
    assert (nested.code, nested.out) == (1, "")
    assert "-o csv" in nested.err


async def test_what_stdout_cannot_write_is_written_otherwise(scene: Scene) -> None:
    one = await scene.add(hostname="h")
    child = await scene.add(one, name="é")
    ascii_only = {"PYTHONIOENCODING": "ascii"}
    tree = await scene.imctl("tree", one, "--columns", "id,status", **ascii_only)
    assert tree.out.splitlines()[2] == f"`- {child}  + healthy"
    told = [await scene.imctl("get", child, "-o", form, **ascii_only) for form in ("json", "yaml", "csv")]
    assert [(each.code, each.err) for each in told] == [(0, "")] * 3
    assert json.loads(told[0].out)[0]["labels"] == yaml.safe_load(told[1].out)[0]["labels"] == {"name": "é"}
    assert "name=\\xe9" in told[2].out


async def test_why_tells_the_chain_up_to_the_root_cause(scene: Scene) -> None:
    backend, first, _, tab = await family(scene)
    (alive,) = await scene.runs([["why", tab]])
    assert (alive.code, alive.out) == (8, "")
    assert "not dead: healthy" in alive.err
    await scene.kill(backend, "rolled back")
    (dead,) = await scene.runs([["why", tab, "-o", "csv", "--columns", "id,cause,note", "--no-headers"]])
    assert list(csv.reader(io.StringIO(dead.out))) == [
        [tab, "parent died", ""],
        [first, "parent died", ""],
        [backend, "killed", "rolled back"],
    ]
    assert f"its ancestor {backend} was killed" in dead.err


async def test_wait_returns_when_it_is_so(scene: Scene) -> None:
    one, coming = await scene.add(), new_id()
    dies = asyncio.create_task(scene.imctl("wait", one, "--for", "dead", "--timeout", "50", "-o", "json"))
    comes = asyncio.create_task(scene.imctl("wait", coming, "--timeout", "50", "-o", "name"))
    await asyncio.sleep(1)
    await scene.kill(one)
    await scene.add(instance_id=coming)
    assert json.loads((await dies).out)[0]["status"] == "STATUS_DEAD"
    assert (await comes).out.strip() == coming


async def test_wait_ends_with_8_when_it_is_not_so_in_time_or_never_will_be(scene: Scene) -> None:
    one, gone = await scene.add(), await scene.add()
    await scene.kill(gone)
    late, never, nobody = await scene.runs(
        [
            ["wait", one, "--for", "stale", "--timeout", "0.2"],
            ["wait", gone, "--for", "stale"],
            ["wait", new_id(), "--for", "dead"],
        ]
    )
    assert [each.code for each in (late, never, nobody)] == [8, 8, 3]
    assert "not stale after 0.2 s" in late.err
    assert "will never be stale" in never.err


async def test_add_registers_what_it_is_told(scene: Scene) -> None:
    backend = await scene.add(of=BROWSER_BACKEND)
    arguments = ["--hostname", "gpu-7", "--label", "a=b", "--service", "VLLM_OPENAI_COMPATIBLE=8000", "--timeout", "7"]
    added = await scene.imctl("add", "--type", "VLLM", "--parent", backend[-8:], *arguments, "-o", "name")
    one = await scene.client.get.GetInstance(InstanceRequest(instance_id=added.out.strip()))
    assert (one.instance_type, one.hostname, one.parent_id, one.timeout_ms) == (VLLM, "gpu-7", backend, 7000)
    assert (dict(one.labels), one.services[0].host) == ({"a": "b"}, "gpu-7")
    assert "stale in 7 s" in added.err


async def test_a_command_may_name_its_parent_by_a_part_of_the_id(scene: Scene) -> None:
    backend = await scene.add(of=BROWSER_BACKEND)
    asked = ("get", "--type", "VLLM", "-o", "csv", "--columns", "parent")
    ended = await scene.imctl("run", "--type", "VLLM", "--parent", backend[-10:], "-q", "--", *IMCTL, *asked)
    assert ended.out.split() == ["parent", backend]
    assert (await scene.imctl("run", "--type", "VLLM", "--parent", "ffffff", "--", "true")).code == 3


async def test_refusals_have_a_reason_advice_and_a_code(scene: Scene) -> None:
    backend, first, second, tab = await family(scene)
    dead = await scene.add()
    await scene.kill(dead)
    asked = {
        ("add", "--type", "VLLM", "--id", first): (7, "ID_TAKEN"),
        ("add", "--type", "VLLM", "--id", dead): (7, "DEAD"),
        ("add", "--type", "VLLM", "--parent", new_id()): (3, "UNKNOWN_PARENT"),
        ("link", tab, backend): (7, "CYCLE"),
        ("link", second, first): (7, "HAS_PARENT"),
        ("link", backend, new_id()): (3, "UNKNOWN_INSTANCE"),
        ("service", dead, "CHROME_DEBUG_PORT=a:1"): (7, "DEAD"),
        ("service", new_id(), "CHROME_DEBUG_PORT=a:1"): (3, "UNKNOWN_INSTANCE"),
        ("kill", "--yes", new_id()): (3, "UNKNOWN_INSTANCE"),
        ("describe", new_id()): (3, "was ever registered"),
        ("health", new_id()): (3, "was ever registered"),
        ("service", first, "CHROME_DEBUG_PORT=1"): (2, "names no host"),
        ("metrics", dead): (3, ""),
    }
    told = await scene.runs(list(asked))
    for ended, (code, word) in zip(told, asked.values(), strict=True):
        assert (ended.code, ended.out) == (code, "")
        assert word in ended.err
        assert ended.err.count("\n") == 2


async def test_services_are_listed_and_added(scene: Scene) -> None:
    _, first, second, _ = await family(scene)
    listed, added, twice = await scene.runs(
        [
            ["service", "-o", "name"],
            ["service", second, "VLLM_OPENAI_COMPATIBLE=[::1]:8000/v1", "-o", "name"],
            ["service", second, "VLLM_OPENAI_COMPATIBLE=[::1]:8000/v1", "--columns", "id,path", "--no-headers"],
        ]
    )
    assert listed.out == "CHROME_DEBUG_PORT=10.0.0.1:9222\n"
    assert added.out == "VLLM_OPENAI_COMPATIBLE=[::1]:8000/v1\n"
    assert twice.out == f"{second}  /v1\n"
    assert first


async def test_health_is_8_unless_all_are_healthy(scene: Scene) -> None:
    one, dead = await scene.add(), await scene.add()
    await scene.kill(dead)
    well, not_all = await scene.runs([["health", one, "-o", "json"], ["health", one, dead]])
    (told,) = json.loads(well.out)
    assert (well.code, told["healthy"], told["status"]) == (0, True, "STATUS_HEALTHY")
    assert told["deadline"] > told["last_health_check"]
    assert not_all.code == 8
    assert "✕ dead" in not_all.out


async def test_metrics_are_the_last_of_each_kind_and_with_since_those_before(scene: Scene) -> None:
    one, silent = await scene.add(), await scene.add()
    await scene.measure(one)
    latest, few, before, none, wrong = await scene.runs(
        [
            ["metrics", one, "-o", "json"],
            ["metrics", one, "--kind", "GPU", "-o", "csv", "--columns", "kind,gpu_index,bytes_sent"],
            ["metrics", one, "--since", "5m", "--kind", "system", "-o", "json"],
            ["metrics", silent],
            ["metrics", one, "--kind", "lions"],
        ]
    )
    told = json.loads(latest.out)
    assert [each["kind"] for each in told] == ["system", "proxy", "gpu", "gpu", "llm"]
    assert told[0]["used_memory_bytes"] == str(2 << 30)
    assert told[1]["bytes_sent"] == str(2**63 - 1)
    assert few.out.splitlines() == ["kind,gpu_index,bytes_sent", "gpu,0,", "gpu,1,"]
    # two where a point of the chart begins between both samples
    assert [int(each["used_memory_bytes"]) >> 30 for each in json.loads(before.out)] in ([2], [1, 2])
    assert (none.code, "measured nothing" in none.err) == (0, True)
    assert (wrong.code, "system, proxy, gpu, llm" in wrong.err) == (2, True)


async def test_metrics_of_a_subtree_are_those_of_all_below_added_up(scene: Scene) -> None:
    root = await scene.add()
    below = [await scene.add(root), await scene.add(root)]
    for one in below:
        await scene.measure(one)
    told, without = await scene.runs(
        [
            ["metrics", root, "--subtree", "--since", "5m", "--kind", "llm", "-o", "json"],
            ["metrics", root, "--subtree"],
        ]
    )
    assert [each["request_count"] for each in json.loads(told.out)][-1] == "14"
    assert (without.code, "--since" in without.err) == (2, True)


async def test_events_are_the_last_ones_in_their_order(scene: Scene) -> None:
    backend, first, _, tab = await family(scene)
    await scene.kill(first, "enough")
    asked = [
        ["events", first, "-o", "csv", "--columns", "event"],
        ["events", "--limit", "2", "-o", "csv", "--columns", "event,id,detail,note"],
        ["events", "--event", "REMOVED", "--subtree", backend, "-o", "name"],
        ["events", "--since", "1h", "--until", "30m"],
        ["events", "--since", "lately"],
        ["events", "--event", "BOOKMARK"],
    ]
    own, last, removed, none, when, what = await scene.runs(asked)
    story = ["event", "ADDED", "PARENT_ADDED", "SERVICE_ADDED", "CHILD_ADDED", "REMOVED"]
    assert sorted(own.out.split()) == sorted(story)
    assert list(csv.reader(io.StringIO(last.out)))[1:] == [
        ["REMOVED", first, "killed", "enough"],
        ["REMOVED", tab, f"parent died (root cause {first})", ""],
    ]
    assert removed.out.split() == [first, tab]
    assert (none.code, none.out.count("\n")) == (0, 1)
    assert (when.code, what.code) == (2, 2)
    assert "15m (ago)" in when.err


async def test_kill_tells_who_died_and_how_long_it_took(scene: Scene) -> None:
    backend, first, second, tab = await family(scene)
    dry, killed, again = await scene.runs(
        [
            ["kill", backend, "--dry-run", "-o", "name"],
            ["kill", first, backend, "--yes", "--note", "gone", "-o", "csv", "--columns", "id,status"],
            ["kill", backend, "--yes", "-o", "name"],
        ]
    )
    assert set(dry.out.split()) == {backend, first, second, tab}
    assert {row[0] for row in csv.reader(io.StringIO(killed.out))} == {"id", backend, first, second, tab}
    assert killed.out.count(",dead") == 4
    assert "4 instances died, in 0." in killed.err
    assert (again.code, again.out) == (0, "")
    assert "0 instances died" in again.err


async def test_kill_without_a_terminal_names_the_flag(scene: Scene) -> None:
    one = await scene.add()
    ended = await scene.imctl("kill", one)
    assert (ended.code, ended.out) == (2, "")
    assert "--yes" in ended.err
    assert (await scene.imctl("health", one)).code == 0


async def test_bench_leaves_nobody_alive(scene: Scene) -> None:
    measured, left = await scene.runs(
        [
            ["bench", "--instances", "20", "--seconds", "0.3", "-o", "json"],
            ["get", "--label", "made-by=imctl-bench", "-o", "name"],
        ]
    )
    told = {each["call"]: each for each in json.loads(measured.out)}
    assert list(told) == ["TryAddInstance", "TryHealthCheck", "GetInstance", "TryKillInstance"]
    assert [told[each]["count"] for each in ("TryAddInstance", "GetInstance", "TryKillInstance")] == [20] * 3
    assert not any(each["failed"] for each in told.values())
    assert left.out == ""


async def test_kill_of_nobody_is_a_mistake(scene: Scene) -> None:
    assert (await scene.imctl("kill", "--yes", "")).code == 2


async def test_a_manager_that_does_not_answer_is_out_of_reach() -> None:
    for verb in (["get"], ["get", "--watch"], ["watch"], ["events"], ["tree"]):
        ended = await imctl(*verb, "--address", "127.0.0.1:1")
        assert ended.code == 4, verb
        assert "imctl dev" in ended.err
        assert ended.err.count("\n") == 2


async def test_the_past_is_shown_by_a_time_or_a_revision_and_with_the_filters_of_then(scene: Scene) -> None:
    backend, first, second, tab = await family(scene)
    then = await scene.database.value("select max(revision) from event")
    time = (await scene.database.value("select max(at) + interval '1 millisecond' from event")).isoformat()
    await scene.kill(first)
    asked = {
        ("--at", f"@{then}", "--type", "CHROME_BROWSER"): {first, second, tab},
        ("--at", time, "--subtree", first): {first, tab},
        ("--at", f"@{then}", "--label", "team=search"): {first},
        ("--at", f"@{then}", "--parent", backend): {first, second},
        ("--at", f"@{then}", tab, backend): {tab, backend},
        ("--at", f"@{then + 1}", tab, backend): {backend},
    }
    told = await scene.runs([["get", *arguments, "-o", "name"] for arguments in asked])
    assert [set(each.out.split()) for each in told] == list(asked.values())
    wrong = [["get", "--at", each] for each in ("@", "@x", "yesterday", f"@{10**30}")] + [["get", "-w", "--at", "1h"]]
    assert [each.code for each in await scene.runs(wrong)] == [2] * len(wrong)
    later, before = await scene.runs([["get", "--at", f"@{then + 1000}"], ["get", "--at", "@0", "-o", "name"]])
    assert (later.code, later.out) == (2, "")
    assert "yet to come" in later.err
    assert (before.code, before.out) == (0, "")


async def test_a_difference_says_who_came_who_went_and_why_and_what_changed(scene: Scene) -> None:
    backend, first, _, tab = await family(scene)
    then = await scene.database.value("select max(revision) from event")
    await scene.kill(first)
    new = await scene.add()
    offering, whole, none, backwards = await scene.runs(
        [
            ["service", backend, "CHROME_DEBUG_PORT=10.0.0.1:9222/x"],
            ["diff", f"@{then}", "-o", "csv", "--columns", "change,id,detail"],
            ["diff", f"@{then}", f"@{then}", "-o", "name"],
            ["diff", f"@{then}", "@1"],
        ]
    )
    assert offering.code == 0
    assert set(whole.out.splitlines()[1:]) == {
        f"removed,{first},killed",
        f'removed,{tab},"parent died, with {first}"',
        f"added,{new},",
        f"changed,{backend},+CHROME_DEBUG_PORT=10.0.0.1:9222/x",
    }
    assert (none.code, none.out) == (0, "")
    assert (backwards.code, backwards.out) == (2, "")
