"""Test each alert with promtool: when it fires and clears, that it is silent below its threshold, and that its cause
raises no other alert.

In each case of ``testbed/alerts``, something fails at the minute ``T``. Many cases are evaluated together, each in an
environment of its own, since promtool takes long for each run.
"""

import functools
import itertools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from testbed.alerts import agents, api, foundation, processes, results, scores_and_reviews
from testbed.alerts.case import Case
from testbed.alerts.processes import BLIND
from testbed.alerts.world import SMALL_POOL, World, healthy, series
from testbed.paths import CHECKOUT

PROMETHEUS: Final = CHECKOUT / "deploy" / "prometheus"
RULES: Final = PROMETHEUS / "rules.yaml"
CASES: Final = (
    *processes.CASES,
    *foundation.CASES,
    *results.CASES,
    *scores_and_reviews.CASES,
    *api.CASES,
    *agents.CASES,
)
"""What happens to one environment."""


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run promtool; skip the test without one, or let it fail in continuous integration."""
    program = shutil.which("promtool", path=f"{CHECKOUT / '.venv' / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}")
    if program is None and "CI" not in os.environ:
        pytest.skip("promtool is missing; run scripts/bootstrap")
    assert program is not None, "promtool is missing; run scripts/bootstrap"
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=300, check=False)


GROUPS: Final[Any] = yaml.safe_load(RULES.read_text())["groups"]
RULES_BY_NAME: Final[Mapping[str, Any]] = {
    rule["alert"]: rule for group in GROUPS for rule in group["rules"] if "alert" in rule
}
"""The alerts."""


# ---- promtool --------------------------------------------------------------------------------------------------------


def input_series(environment: str, world: World, until: int) -> list[dict[str, str]]:
    return [
        {
            "series": name.replace("{", f'{{environment="{environment}", ', 1),
            "values": notation(tuple(values[: until + 1])),
        }
        for name, values in (healthy() | world).items()
    ]


@functools.cache
def notation(values: tuple[float | str, ...]) -> str:
    """Return values in the notation of promtool, in which evenly rising ones are one word."""
    words: list[str] = []
    place = 0
    while place < len(values):
        first, end = values[place], place + 1
        if isinstance(first, str):
            words.append(first)
        else:
            step = _step(values, place)
            while end < len(values) and _step(values, end - 1) == step is not None:
                end += 1
            words.append(f"{first:.12g}" if step is None else f"{first:.12g}+{step:.12g}x{end - place - 1}")
        place = end
    return " ".join(words).replace("+-", "-")


def _step(values: tuple[float | str, ...], place: int) -> float | None:
    pair = values[place : place + 2]
    return float(pair[1]) - float(pair[0]) if len(pair) == 2 and not any(isinstance(v, str) for v in pair) else None


def labels_of(case: Case, alert: str) -> dict[str, str]:
    place = {} if case in BLIND else {"environment": case.environment}
    return place | dict(case.labels) | {"severity": RULES_BY_NAME[alert]["labels"]["severity"]}


def expected(case: Case) -> Iterator[dict[str, Any]]:
    """Yield what must fire at the edges, and for how many minutes in all, so that nothing fires in between."""
    times, place = case.times, "" if case in BLIND else case.environment
    chosen = f'alertstate="firing", environment="{place}"'
    samples = {alert: series("", alertname=alert, alertstate="firing", **labels_of(case, alert)) for alert in times}
    for minute in sorted({edge - early for span in times.values() for edge in span for early in (0, 1)}):
        now = [name for name, span in times.items() if minute in range(*span)]
        yield {
            "expr": f"ALERTS{{{chosen}}}",
            "eval_time": f"{minute}m",
            "exp_samples": [{"labels": f"ALERTS{samples[name]}", "value": 1} for name in now],
        }
    yield {
        "expr": f"count_over_time(ALERTS{{{chosen}}}[{case.until}m])",
        "eval_time": f"{case.until}m",
        "exp_samples": [{"labels": samples[name], "value": end - begin} for name, (begin, end) in times.items()],
    }


def texts(cases: Iterable[Case]) -> Iterator[dict[str, Any]]:
    """Yield the tests of what each alert says when it begins to fire, in all cases in which it does so together."""
    by_start: dict[tuple[str, int], list[Case]] = {}
    for case in cases:
        by_start.setdefault((case.alert, case.fires), []).append(case)
    for (alert, minute), found in by_start.items():
        said = [{"exp_labels": labels_of(case, alert), "exp_annotations": annotations(case)} for case in found]
        yield {"eval_time": f"{minute}m", "alertname": alert, "exp_alerts": said}


def annotations(case: Case) -> dict[str, str]:
    labels, given = labels_of(case, case.alert), RULES_BY_NAME[case.alert]["annotations"]
    summary = re.sub(r"{{ \$labels\.(\w+) }}", lambda found: labels[found[1]], given["summary"])
    return {**given, "summary": summary, "description": case.says}


def together(cases: Sequence[Case]) -> dict[str, Any]:
    """Return a group of tests for promtool: each case in an environment of its own."""
    until = max(case.until for case in cases)
    return {
        "interval": "1m",
        "input_series": [one for case in cases for one in input_series(case.environment, case.bad, until)],
        "promql_expr_test": [*itertools.chain.from_iterable(map(expected, cases))],
        "alert_rule_test": [*texts(cases)],
    }


def run(group: Mapping[str, Any], directory: Path) -> str:
    """Run a group of tests; return what promtool says if one fails, else nothing."""
    file = directory / "tests.json"
    order = [group["name"] for group in GROUPS]
    tests = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
        "group_eval_order": order,
        "tests": [group],
    }
    file.write_text(json.dumps(tests))
    ended = promtool("test", "rules", str(file))
    return "" if ended.returncode == 0 else ended.stdout + ended.stderr


# ---- tests -----------------------------------------------------------------------------------------------------------


def by_length() -> list[list[Case]]:
    """Return the cases in groups of similar length, in each of which an alert begins at one time only."""
    groups: list[list[Case]] = []
    for case in sorted(CASES, key=lambda case: case.until):
        for group in groups:
            others = {alert: times[0] for one in group for alert, times in one.times.items()}
            together = all(others.get(alert, times[0]) == times[0] for alert, times in case.times.items())
            if together and case.until <= group[0].until + 12:
                group.append(case)
                break
        else:
            groups.append([case])
    return groups


@pytest.mark.parametrize("cases", [*by_length(), *([case] for case in BLIND)], ids=lambda cases: f"{cases[0].until}m")
def test_alerts_fire_alone_and_in_time_and_clear(cases: Sequence[Case], tmp_path: Path) -> None:
    assert run(together(cases), tmp_path) == ""


def merged_nears() -> list[World]:
    """Return worlds in which everything is nearly bad enough: of what is not about the same series, all at once."""
    worlds = [dict(SMALL_POOL)]
    for near in (case.near for case in (*CASES, *BLIND) if case.near):
        fitting = next((world for world in worlds if world.keys().isdisjoint(near)), None)
        if fitting is None:
            worlds.append(dict(near))
        else:
            fitting.update(near)
    return worlds


def test_what_is_not_bad_enough_raises_no_alert(tmp_path: Path) -> None:
    until = 62
    group = {
        "interval": "1m",
        "input_series": [
            one for number, world in enumerate(merged_nears()) for one in input_series(f"near {number}", world, until)
        ],
        "promql_expr_test": [
            {
                "expr": f'count_over_time(ALERTS{{alertstate="firing"}}[{until}m])',
                "eval_time": f"{until}m",
                "exp_samples": [],
            }
        ],
    }
    assert run(group, tmp_path) == ""


def test_every_alert_has_a_test() -> None:
    assert {case.alert for case in (*CASES, *BLIND)} == set(RULES_BY_NAME)


def test_the_files_are_valid_and_no_rule_is_twice() -> None:
    for arguments in (
        ("check", "rules", str(RULES)),
        ("check", "config", "--syntax-only", str(PROMETHEUS / "prometheus.yaml")),
    ):
        ended = promtool(*arguments)
        assert ended.returncode == 0 and "WARNING" not in ended.stdout + ended.stderr, ended.stdout + ended.stderr


def test_queries_of_the_dashboards_are_valid(tmp_path: Path) -> None:
    boards = [json.loads(path.read_text()) for path in (CHECKOUT / "deploy" / "grafana").glob("*.json")]
    queries = [
        target["expr"].replace("$__rate_interval", "5m")
        for board in boards
        for panel in board["panels"]
        for target in panel.get("targets", ())
    ]
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    file = tmp_path / "queries.json"
    file.write_text(json.dumps({"groups": [{"name": "queries", "rules": rules}]}))
    ended = promtool("check", "rules", str(file))
    assert ended.returncode == 0 and len(queries) > 60, ended.stderr
