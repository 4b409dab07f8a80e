"""
The dashboard, the alert rules and the tables in docs speak of metrics that exist.

Goal: nothing that is looked at stays empty because a name was misspelt. Method: read the files,
compare each name and label with the one list of metrics.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quota_engine.metrics.collector import ADMITTED, FAILED, REASONS, REFUSED
from quota_engine.metrics.described import CLIENT, DEPLOYMENT, PREFIX, Kind, Metric
from tools import metrics_table

FOLDER = Path(__file__).resolve().parents[2] / "observability"
DOCS = Path(__file__).resolve().parents[2] / "docs" / "operations.md"
NAME = re.compile(rf"{PREFIX}[a-z_]+")
SELECTOR = re.compile(rf"({PREFIX}[a-z_]+)\{{([^}}]*)\}}")
GROUPED = re.compile(r"\bby \(([^)]*)\)")
#: Labels that Prometheus adds, and a histogram's own.
GIVEN = {"instance", "job", "le"}
QUOTED = re.compile(r'See ("[^"]+"|\\"[^"]+\\")(?: and ("[^"]+"))?')


def described() -> dict[str, Metric]:
    """Every name that is exported, a histogram's three included."""
    found = {}
    for metric in (*CLIENT, *DEPLOYMENT):
        ends = ("_bucket", "_count", "_sum") if metric.kind is Kind.HISTOGRAM else ("",)
        found |= {f"{PREFIX}{metric.name}{end}": metric for end in ends}
    return found


def dashboard() -> Any:
    return json.loads((FOLDER / "grafana-dashboard.json").read_text(encoding="utf-8"))


def targets() -> Iterator[dict[str, str]]:
    for panel in dashboard()["panels"]:
        yield from panel.get("targets", [])


def rules() -> list[str]:
    """The alert rules' texts, comments left out."""
    text = (FOLDER / "alerts.yml").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    return "\n".join(lines).split("- alert: ")[1:]


def expressions() -> list[str]:
    found = [target["expr"] for target in targets()]
    for rule in rules():
        _, _, rest = rule.partition("expr: ")
        found.append(re.split(r"\n +(?:for|labels): ", rest)[0])
    return found


def test_no_name_is_given_twice() -> None:
    assert len(described()) == len(CLIENT) + len(DEPLOYMENT) + 2


@pytest.mark.parametrize("expression", expressions())
def test_an_expression_names_metrics_and_labels_that_exist(expression: str) -> None:
    known = described()
    names = NAME.findall(expression)
    assert names
    assert set(names) <= set(known)
    labels = set(GIVEN).union(*(known[name].labels for name in names))
    for group in GROUPED.findall(expression):
        assert {label.strip() for label in group.split(",")} <= labels
    for name, selector in SELECTOR.findall(expression):
        chosen = {part.strip() for part in re.findall(r"(\w+)(?:=~|!=|!~|=)", selector)}
        assert chosen <= {*known[name].labels, *GIVEN}
    reasons = {reason for _, reason in REASONS.values()} | {"new"}
    assert set(re.findall(r'outcome!?="(\w+)"', expression)) <= {ADMITTED, REFUSED, FAILED}
    assert set(re.findall(r'reason!?="(\w+)"', expression)) <= reasons


def test_a_counter_is_shown_as_a_rate_or_as_a_difference() -> None:
    known = described()
    for expression in expressions():
        for name in NAME.findall(expression):
            is_counted = known[name].kind is not Kind.GAUGE
            is_rate = re.search(rf"(rate|increase)\({name}[{{\[]", expression) is not None
            is_difference = "unsettled" in expression
            assert is_rate == is_counted or is_difference, expression


def test_every_metric_is_on_the_dashboard() -> None:
    shown = {known for target in targets() for known in NAME.findall(target["expr"])}
    missing = {
        metric.name
        for metric in (*CLIENT, *DEPLOYMENT)
        if not any(name.startswith(PREFIX + metric.name) for name in shown)
    }
    assert missing == set()


def test_a_legend_uses_labels_that_its_expression_keeps() -> None:
    for target in targets():
        kept = {
            label.strip()
            for group in GROUPED.findall(target["expr"])
            for label in group.split(",")
        }
        assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= kept, target


def test_panels_have_titles_and_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        assert panel["title"]
        place = panel["gridPos"]
        cells = {
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    numbers = [panel["id"] for panel in dashboard()["panels"]]
    assert len(set(numbers)) == len(numbers)


def test_an_alert_has_a_name_a_severity_and_leads_to_a_page_that_exists() -> None:
    headings = set(re.findall(r"^#+ (.+)$", DOCS.read_text(encoding="utf-8"), re.MULTILINE))
    names = [rule.splitlines()[0] for rule in rules()]
    assert len(set(names)) == len(names) > 10
    for rule in rules():
        assert re.search(r"severity: (warning|critical)", rule), rule
        assert "summary: " in rule
        for found in QUOTED.findall(rule):
            named = {part.strip('\\"') for part in found if part}
            assert named <= headings, rule


def test_the_tables_in_docs_are_those_of_the_code() -> None:
    text = DOCS.read_text(encoding="utf-8")
    assert text == metrics_table.with_tables(text)
    for metric in (*CLIENT, *DEPLOYMENT):
        assert f"| `{metric.name}` |" in text
