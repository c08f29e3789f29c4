"""Test the plan of a fault run: the same seed gives the same plan, every kind occurs, and no fault is too late."""

from collections import Counter

import pytest

from bench.faults.faults import MAKERS
from bench.faults.plan import (
    CLUSTER,
    CLUSTER_KINDS,
    CLUSTER_NAMES,
    KINDS,
    LINKS,
    NAMES,
    NODES,
    POINTS,
    link_to,
    locks_of,
    make_plan,
)
from bench.faults.points import program_of

PROCESSES = ("agent a", "agent b", "ingest 1", "ingest 2", "scorer", "selector")
KNOWN = {*PROCESSES, *POINTS, *LINKS, "broker", "database", "everybody", "ingest 3", "ingest 4", "api"}


def test_plan_is_determined_by_its_seed() -> None:
    plan = make_plan("1", 600, PROCESSES)
    assert plan == make_plan("1", 600, PROCESSES)
    assert plan != make_plan("2", 600, PROCESSES)


@pytest.mark.parametrize("seed", range(20))
def test_every_kind_occurs_once_before_any_is_repeated(seed: int) -> None:
    plan = make_plan(str(seed), 600, PROCESSES)
    assert len(plan) > 2 * len(NAMES)
    for first in range(0, len(plan) - len(NAMES), len(NAMES)):
        assert sorted(planned.kind for planned in plan[first : first + len(NAMES)]) == sorted(NAMES)


def test_faults_lie_within_their_round_and_have_known_targets() -> None:
    kinds = {kind.name: kind for kind in KINDS}
    for planned in make_plan("1", 3600, PROCESSES):
        assert 0 < planned.at < 3600
        least, most = kinds[planned.kind].seconds
        assert least <= planned.seconds <= most
        assert planned.target in KNOWN


def test_kinds_of_processes_are_killed_about_equally_often() -> None:
    killed = Counter(p.target.partition(" ")[0] for p in make_plan("1", 36_000, PROCESSES, ["kill"]))
    assert set(killed) == {"agent", "ingest", "scorer", "selector", "api", "broker", "database"}
    assert max(killed.values()) < 1.5 * min(killed.values())


def test_faults_of_a_cluster_hit_its_nodes_and_links_instead_of_the_database() -> None:
    links = [link_to(node) for node in NODES]
    plan = make_plan("1", 3600, [*PROCESSES, *NODES, *links], CLUSTER_NAMES, known=CLUSTER_KINDS)
    targets = {planned.target for planned in plan}
    assert targets >= {*NODES, *links, CLUSTER}
    assert targets <= {*KNOWN, *NODES, *links, CLUSTER} - {"database", "workers to database"}
    assert {planned.kind for planned in plan} == set(CLUSTER_NAMES)


def test_only_one_fault_at_a_time_breaks_nodes() -> None:
    assert locks_of({"node 2"}) == [CLUSTER, "node 2"]
    assert locks_of(NODES) == [CLUSTER, *NODES]
    assert locks_of({"scorer", "workers to node 1"}) == ["scorer", "workers to node 1"]


def test_only_allowed_kinds_are_planned() -> None:
    assert {p.kind for p in make_plan("1", 600, PROCESSES, ["kill", "stop"])} == {"kill", "stop"}
    assert make_plan("1", 600, PROCESSES, []) == []


def test_every_kind_has_a_maker_and_every_point_has_a_program() -> None:
    assert set(MAKERS) == set(CLUSTER_NAMES) > set(NAMES)
    assert {program_of(point) for point in POINTS} == {"agent", "ingest", "scorer", "selector", "api"}
