"""Test the report of an upgrade: a run that could not have seen a problem is not good."""

from agent.version import VERSION as VERSION_HERE
from bench.upgrade.report import Findings, Summary, summarize
from testbed.checker.difference import Difference
from testbed.former_release import VERSION


def good() -> Findings:
    found = Findings(tables=("0007", "0008"), results=100)
    found.switched = {f"a, {number}": 2 for number in (1, 2, 3)}
    found.agent_versions = {"a": {VERSION, VERSION_HERE}}
    return found


def summary(found: Findings, agents: int = 1) -> Summary:
    return summarize(found, 1.0, agents)


def test_complete_run_without_findings_is_good() -> None:
    assert summary(good()).good


def test_differences_are_counted_by_kind() -> None:
    found = good()
    found.differences = [Difference(kind, "x") for kind in ("lost", "lost", "duplicated", "invented", "score")]
    found.failed = ["the scorer"]
    told = summary(found)
    assert (told.good, told.lost, told.duplicated, told.unexplained) == (False, 2, 2, 2)


def test_run_without_results_is_not_good() -> None:
    found = good()
    found.results = 0
    assert summary(found).unseen == ["no result was stored"]
    assert not summary(found).good


def test_missing_switch_and_empty_spool_are_not_good() -> None:
    found = good()
    del found.switched["a, 3"]
    found.switched["a, 2"] = 0
    assert summary(found).unseen == ["2 switches of agents, not 3", "no batch waited: a, 2"]


def test_agent_that_ran_only_one_release_is_not_good() -> None:
    found = good()
    found.agent_versions = {"a": {VERSION_HERE}}
    assert summary(found).unseen == [f"a sent batches as {VERSION_HERE}"]
    found.agent_versions = {"a": set()}
    assert not summary(found).good
