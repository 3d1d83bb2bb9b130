"""What is deployed beside the manager: the dashboard and the alerts speak PromQL, of meters and labels that exist."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.wire.asker import ask
from tests.wire.fleet import Fleet

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana.json").read_text())
RULES = [rule for group in yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"] for rule in group["rules"]]
# what Prometheus adds to whatever it scrapes
SCRAPED = {"job", "instance"}
# samples that come with the first of their kind
LATER = {
    "im_calls_total": {"service", "method", "code"},
    "im_call_duration_seconds_bucket": {"service", "method", "le"},
}


def expressions() -> Iterator[tuple[str, str]]:
    """Each expression, by where it stands; Grafana's variables stand for what it puts there."""
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"].replace("$__rate_interval", "5m").replace("$job", ".+")
    for rule in RULES:
        yield rule["alert"], rule["expr"]


def selectors(expression: str) -> list[Any]:
    """What an expression selects."""
    found: list[Any] = []

    def visit(node: Any) -> None:
        if type(node).__name__ == "VectorSelector":
            found.append(node)

    promql_parser.walk(promql_parser.parse(expression), visit)
    return found


async def shown(fleet: Fleet) -> dict[str, set[str]]:
    """Every sample of a manager, with the labels that it has."""
    await fleet.get(fleet.serving.instance_id)
    text = (await ask(fleet.serving.http[0], "/metrics")).text
    found: dict[str, set[str]] = {name: set(labels) for name, labels in LATER.items()} | {"up": set()}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


async def test_all_that_is_asked_about_is_there_with_its_labels(fleet: Fleet) -> None:
    known = await shown(fleet)
    asked = 0
    for where, expression in expressions():
        for each in selectors(expression):
            assert each.name in known, (where, each.name)
            labels = {matcher.name for matcher in each.matchers.matchers}
            assert labels <= known[each.name] | SCRAPED, (where, labels)
            asked += 1
    assert asked > 40


def base(name: str) -> str:
    """What a sample is part of: a histogram has several."""
    return name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count")


async def test_the_dashboard_shows_every_meter_of_ours(fleet: Fleet) -> None:
    used = {base(each.name) for panel, expression in expressions() for each in selectors(expression)}
    shows = {base(name) for name in await shown(fleet) if name.startswith("im_") and not name.endswith("_created")}
    assert shows <= used


def test_panels_have_places_of_their_own_and_one_data_source() -> None:
    places: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & places, panel["title"]
        assert max(x for x, _ in cells) < 24
        places |= cells
        assert panel["datasource"]["uid"] == "${datasource}"
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_alert_says_how_bad_it_is_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule.keys() == {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"].keys() == {"summary", "description"}
    assert promql_parser.parse_duration(rule["for"]).total_seconds() >= 60


def test_no_two_alerts_have_one_name() -> None:
    names = [rule["alert"] for rule in RULES]
    assert len(set(names)) == len(names)


def test_each_alert_has_its_place_in_the_runbook() -> None:
    page = (DEPLOY.parent / "docs" / "operations.md").read_text().partition("\n## Runbook\n")[2]
    assert re.findall(r"^### (\w+)$", page, flags=re.M) == [rule["alert"] for rule in RULES]
