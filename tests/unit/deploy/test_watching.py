"""Test that rules, dashboards and documents name only metrics and labels that exist, and that alerts have runbooks."""

import asyncio
import collections
import functools
import itertools
import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final
from unittest import mock

import pytest
import yaml
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from agent.metrics import AgentCounters
from agent.status import metrics as agent_metrics
from api.metrics import ApiMetrics
from api.watched import show_times
from auth.ca.files import FileAuthority
from ingest.metrics import IngestMetrics
from ingest.queue import SubmissionQueue
from notifier.metrics import NotifierMetrics
from runtime.db.metrics import DatabaseMetrics
from runtime.telemetry import telemetry
from runtime.worker import Vitals
from scorer.metrics import ScorerMetrics
from selector.metrics import SelectorMetrics
from selector.row_warnings import RowWarnings
from testbed.paths import CHECKOUT
from web.metrics import WebMetrics

RULES: Final = [
    rule
    for group in yaml.safe_load((CHECKOUT / "deploy/prometheus/rules.yaml").read_text())["groups"]
    for rule in group["rules"]
]
ALERTS: Final = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDED: Final = {rule["record"]: rule["expr"] for rule in RULES if "record" in rule}
DASHBOARDS: Final = sorted((CHECKOUT / "deploy/grafana").glob("*.json"))
RUNBOOKS: Final = (CHECKOUT / "docs/alerts.md").read_text()
DOCUMENTS: Final = ("docs/alerts.md", "docs/operating.md")

OF_TARGETS: Final = {"job", "instance", "environment", "service", "check"}
"""Labels that prometheus.yaml gives to targets."""
FOREIGN: Final[Mapping[str, set[str]]] = {
    "up": set(),
    "ALERTS": {"alertname", "alertstate", "severity", "reason", "kind"},
    "probe_success": set(),
    "probe_ssl_earliest_cert_expiry": set(),
}
"""Metrics of Prometheus itself and of its blackbox exporter, with their labels."""
KEYWORDS: Final = {"and", "or", "unless", "by", "on", "bool", "offset", "without", "ignoring"}

# ---- metrics that exist ----------------------------------------------------------------------------------------------


def use_all_metrics_of_workers(meter: Any) -> None:
    """Call everything that counts, with values that have the attributes of the real ones."""
    thing: Any = SimpleNamespace
    status = thing(value="active")
    ingest, api, selector = IngestMetrics(meter, SubmissionQueue()), ApiMetrics(meter), SelectorMetrics(meter)
    ingest.committed(thing(acks=[1], duplicates=0, log_rows=[1], rejected=collections.Counter(["reason"])), 0.1)
    ingest.unreadable()
    ingest.dropped("reason")
    ingest.expired("log_scores", 1)
    scorer = ScorerMetrics(meter)
    scorer.scored(thing(claimed=1, logged=1, alarming=[1]), 0.1)
    scorer.backlog(1)
    change = thing(from_status=status, to_status=status, rule="rule")
    selector.reviewed(thing(outcome="changed", seconds=0.1, changes=[change]), 0.1)
    selector.published(1, 1)
    selector.repaired("missing", 1)
    selector.made_due("back", 1)
    selector.made_pairs(1)
    selector.backlog(1)
    selector.health({"loses-packets": 1})
    selector.pools({"active": 1}, {"account": 1})
    RowWarnings(selector.bad_rows).warn("pair", 1, "odd")
    api.requested("/route", 200, 0.1)
    api.refused("kind")
    api.registration("pending")
    api.key_refused()
    api.issued("token")
    api.agents({"connected": 1, "away": 0})
    settings: Any = thing(ca="files", jwt_key=None, jwt_key_file=Path(__file__))
    show_times(api, published(), settings)
    web = WebMetrics(meter)
    web.requested("/route", 200, 0.1)
    web.refused("kind")
    notifier = NotifierMetrics(meter)
    notifier.changed([thing(key=thing(kind="kind"), raised=True)])
    notifier.sent(True)
    notifier.raised({})
    notifier.waiting(1, 1.0, 1)


@functools.cache
def published() -> Any:
    """Return what the API publishes of a new CA."""
    with tempfile.TemporaryDirectory() as directory:
        authority = FileAuthority(Path(directory) / "ca", "test")
        authority.create()
        return SimpleNamespace(bundle=authority.bundle(), revocations=authority.revocation_list([]))


async def use_vitals(worker: Any) -> None:
    await Vitals(worker).note()


def text_of_agent() -> str:
    """Return what an agent answers to the request for its metrics."""
    spool = mock.MagicMock(bytes=0, counters=SimpleNamespace(torn=0))
    prober = SimpleNamespace(why_not=None, used=True, assignments=(), clock=SimpleNamespace(offset=0.0))
    pipeline: Any = SimpleNamespace(prober=prober, spool=spool)
    return agent_metrics({"v4": pipeline}, AgentCounters(), connected=True)


@functools.cache
def known() -> Mapping[str, set[str]]:
    """Return all metrics that processes expose, with their own labels; and those of others, and recorded ones."""
    with telemetry("test", "test") as numbers:
        clock, broker = SimpleNamespace(doubt=None, ahead=0.0), SimpleNamespace(connected=True, connections=1)
        worker = SimpleNamespace(telemetry=numbers, clock=clock, broker=broker, status={})
        use_all_metrics_of_workers(numbers.meter)
        asyncio.run(use_vitals(worker))
        DatabaseMetrics(numbers.meter)
        families = [*REGISTRY.collect(), *text_string_to_metric_families(text_of_agent())]
    found: dict[str, set[str]] = {name: set(labels) for name, labels in FOREIGN.items()}
    for sample in itertools.chain.from_iterable(family.samples for family in families):
        found.setdefault(sample.name, set()).update(sample.labels)
    recorded = {name: {label for by in grouped(expr) for label in by} for name, expr in RECORDED.items()}
    return found | recorded


# ---- expressions -----------------------------------------------------------------------------------------------------


def bare(expr: str) -> str:
    """Return an expression without ranges, offsets and comments."""
    return re.sub(r"\[[^]]*\]|\boffset \w+|#.*", "", expr)


def grouped(expr: str) -> Iterator[list[str]]:
    """Yield the labels of each clause ``by`` and ``on``."""
    for inside in re.findall(r"\b(?:by|on) \(([^)]*)\)", bare(expr)):
        yield re.findall(r"\w+", inside)


def selectors(expr: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each metric of an expression, and the labels by which it is selected."""
    plain = re.sub(r"\b(?:by|on) \([^)]*\)", "", bare(expr))
    plain = re.sub(r'"(?:[^"\\]|\\.)*"', '""', plain)
    for name, inside in re.findall(r"(?<![\w:.])([a-zA-Z_:][\w:]*)(?![\w:]|\s*\()\s*(\{[^}]*\})?", _outside(plain)):
        if name not in KEYWORDS:
            yield name, re.findall(r"(\w+)\s*[=!]", inside)


def _outside(plain: str) -> str:
    """Return an expression whose braces contain no words that are not labels."""
    return plain.replace("{{", "{").replace("}}", "}")


def wrong_in(expr: str) -> list[str]:
    """Return what an expression names that does not exist."""
    wrong, labels = [], set(OF_TARGETS) | set(re.findall(r'"(\w+)", "[^"]*", "[^"]*", "[^"]*"\)', expr))
    for name, chosen in selectors(expr):
        if name not in known():
            wrong.append(name)
            continue
        labels |= known()[name]
        wrong += [f"{name}{{{label}}}" for label in chosen if label not in known()[name] | OF_TARGETS]
    made = set(re.findall(r'label_replace\([^"]*?"(\w+)"', re.sub(r"\{[^}]*\}", "", expr)))
    return wrong + [f"by {label}" for by in grouped(expr) for label in by if label not in labels | made]


def test_the_extraction_finds_what_does_not_exist() -> None:
    expr = (
        'sum by (environment, colour) (rate(ntppool_ingest_storred_total{reason="a b", job="x"}[5m] offset 1h)) > 1e3'
    )
    assert wrong_in(expr) == ["ntppool_ingest_storred_total", "by colour"]
    assert wrong_in('ntppool_ingest_rejected_total{raeson!~"x|y"} or up{check="work"}') == [
        "ntppool_ingest_rejected_total{raeson}"
    ]
    assert wrong_in("histogram_quantile(0.9, sum by (le) (rate(ntppool_scorer_batch_seconds_bucket[5m])))") == []
    assert "ntppool_agent_spool_batches" in known() and "process_start_time_seconds" in known()


# ---- rules -----------------------------------------------------------------------------------------------------------


def test_rules_name_only_what_exists() -> None:
    wrong = {rule.get("alert") or rule["record"]: wrong_in(rule["expr"]) for rule in RULES}
    assert {name: found for name, found in wrong.items() if found} == {}


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_says_what_it_is_and_where_to_read_on(name: str) -> None:
    rule = ALERTS[name]
    labels = {label for metric, _ in selectors(rule["expr"]) for label in known()[metric] | OF_TARGETS}
    texts = {key: rule["annotations"][key] for key in ("summary", "description", "runbook_url")}
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert texts["runbook_url"] == f"docs/alerts.md#{name.lower()}"
    assert "$value" in texts["description"] or "absent" in rule["expr"] or name == "NtppoolAllDown"
    assert set(re.findall(r"\$labels\.(\w+)", " ".join(texts.values()))) <= labels


# ---- runbooks and other documents ------------------------------------------------------------------------------------


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    assert re.findall(r"^### (Ntppool\w+)$", RUNBOOKS, re.MULTILINE) == list(ALERTS)


@pytest.mark.parametrize("name", ALERTS)
def test_a_runbook_says_all_that_is_needed(name: str) -> None:
    paragraph = RUNBOOKS.partition(f"### {name}\n")[2].partition("\n### ")[0]
    leads = re.findall(r"\*\*([A-Z][a-z ]+)\.\*\*", paragraph)
    assert leads == ["Meaning", "Users notice", "Look at", "Do", "Clears"]
    rule = ALERTS[name]
    after = f"after {rule['for'].removesuffix('m')} min" if "for" in rule else "at once"
    assert f"**Meaning.** {rule['labels']['severity'].capitalize()}, {after}: " in paragraph


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documents_name_only_metrics_that_exist(document: str) -> None:
    text = (CHECKOUT / document).read_text()
    bases = {re.sub(r"_(bucket|count|sum)$", "", name) for name in known()}
    named = set(re.findall(r"`(ntppool_\w+?)[`{]|\b(ntppool_\w+)\{", text))
    missing = {name for name in itertools.chain.from_iterable(named) if name} - bases - known().keys()
    assert missing == set()
    # The table abbreviates names of the same worker.
    shortened = set(re.findall(r"`…(_[a-z]\w*?)[`{]", text))
    assert {end for end in shortened if not any(name.endswith(end) for name in bases)} == set()


# ---- dashboards ------------------------------------------------------------------------------------------------------


def load(path: Path) -> Any:
    return json.loads(path.read_text())


def targets(board: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each panel with each of its queries."""
    for panel in board["panels"]:
        yield from ((panel, target) for target in panel.get("targets", ()))


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_dashboards_name_only_what_exists(path: Path) -> None:
    wrong = {panel["title"]: wrong_in(target["expr"]) for panel, target in targets(load(path))}
    assert {title: found for title, found in wrong.items() if found} == {}


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_dashboards_use_their_variables_and_ids_are_unique(path: Path) -> None:
    board = load(path)
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource" and variables["datasource"]["query"] == "prometheus"
    for variable in variables.values():
        if variable["type"] == "query":
            found = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
            assert found is not None and wrong_in(found[1]) == [] and found[2] in OF_TARGETS
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    for panel, target in targets(board):
        assert panel["datasource"]["uid"] == target["datasource"]["uid"] == "${datasource}"
        assert set(re.findall(r"\$(?!__)\{?(\w+)", target["expr"])) <= variables.keys()
        assert "$environment" in target["expr"], f"{panel['title']}: of one environment"
        labels = OF_TARGETS | {label for name, _ in selectors(target["expr"]) for label in known()[name]}
        assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= labels


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_do_not_overlap_and_say_what_they_show(path: Path) -> None:
    board, taken = load(path), set[tuple[int, int]]()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = set(
            itertools.product(range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"]))
        )
        assert not cells & taken and place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells
        assert panel["type"] == "row" or panel["description"].endswith("."), panel["title"]
        assert len({target["refId"] for target in panel.get("targets", ())}) == len(panel.get("targets", ()))
    assert len({load(other)["uid"] for other in DASHBOARDS}) == len(DASHBOARDS)
