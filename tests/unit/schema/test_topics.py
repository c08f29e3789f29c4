"""Test topics: each can be built and parsed again, and belongs to one environment."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.names import ENVIRONMENTS, IP_VERSIONS, IpVersion
from schema.topics import ANY, Address, Topics, shared, unshared

NAME = "uspao1-21wase0.test.mon.ntppool.dev"
TOPICS = Topics("test")

EVERY_TOPIC = {
    TOPICS.status(NAME): (f"/test/monitors/status/{NAME}/status", Address("status", NAME)),
    TOPICS.api_test(NAME): (f"/test/monitors/status/{NAME}/api-test", Address("api-test", NAME)),
    TOPICS.config(NAME): (f"/test/monitors/config/{NAME}", Address("config", NAME)),
    TOPICS.assignment(NAME, "v6", 42): (
        f"/test/monitors/assignments/{NAME}/v6/42",
        Address("assignments", NAME, "v6", "42"),
    ),
    TOPICS.results(NAME, "v4"): (f"/test/monitors/results/{NAME}/v4", Address("results", NAME, "v4")),
    TOPICS.acks(NAME, "v6"): (f"/test/monitors/acks/{NAME}/v6", Address("acks", NAME, "v6")),
    TOPICS.request(NAME, "ntp"): (f"/test/monitors/requests/{NAME}/ntp", Address("requests", NAME, rest="ntp")),
    TOPICS.data(NAME, "id-1"): (f"/test/monitors/data/{NAME}/id-1", Address("data", NAME, rest="id-1")),
    TOPICS.monitor_control(NAME): (f"/test/monitors/control/{NAME}", Address("control", NAME)),
    TOPICS.service_control("ingest"): ("/test/control/ingest", Address("service-control", "ingest")),
}


@pytest.mark.parametrize(("topic", "expected"), EVERY_TOPIC.items(), ids=lambda value: getattr(value, "kind", None))
def test_topic_has_the_published_form_and_is_parsed_again(topic: str, expected: tuple[str, Address]) -> None:
    assert (topic, TOPICS.parse(topic)) == expected


def test_topics_of_events_and_revocations_are_built_but_not_parsed() -> None:
    assert TOPICS.result_event(7) == "/test/events/results/7"
    assert TOPICS.score_event(7) == "/test/events/scores/7"
    assert TOPICS.assignment_event(7) == "/test/events/assignments/7"
    assert TOPICS.rejected_event == "/test/events/rejected"
    assert TOPICS.revocations == "/test/control/broker/revocations"
    assert TOPICS.parse(TOPICS.rejected_event) is None
    assert TOPICS.parse(TOPICS.revocations) is None


@pytest.mark.parametrize("topic", EVERY_TOPIC)
def test_topic_is_not_parsed_in_another_environment(topic: str) -> None:
    assert Topics("prod").parse(topic) is None
    assert topic.startswith(TOPICS.everything.removesuffix("#"))


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "/",
        "test/monitors/config/a",
        "/test",
        "/test/monitors",
        "/test/monitors/config",
        "/test/monitors/config/",
        "/test/monitors/config/a/b",
        "/test/monitors/status/a",
        "/test/monitors/status/a/other",
        "/test/monitors/results/a",
        "/test/monitors/results/a/v5",
        "/test/monitors/results/a/v4/1",
        "/test/monitors/assignments/a/v4",
        "/test/monitors/assignments/a/v4/",
        "/test/monitors/assignments/a/v4/x",
        "/test/monitors/assignments/a/v4/-1",
        "/test/monitors/assignments/a/v4/٣",
        "/test/monitors/assignments/a/v4/²",
        "/test/monitors/requests/a/",
        "/test/monitors/unknown/a",
        "/test/control",
        "/test/control/",
        "/test/control/ingest/x",
        "//test/control/ingest",
        "$SYS/broker/uptime",
    ],
)
def test_unknown_topics_are_not_parsed(topic: str) -> None:
    assert TOPICS.parse(topic) is None


def test_filters_may_contain_wildcards() -> None:
    assert TOPICS.results(ANY, ANY) == "/test/monitors/results/+/+"
    assert TOPICS.acks(NAME, ANY) == f"/test/monitors/acks/{NAME}/+"
    assert TOPICS.assignment(NAME, ANY, ANY) == f"/test/monitors/assignments/{NAME}/+/+"
    assert TOPICS.assignments(NAME) == f"/test/monitors/assignments/{NAME}/#"
    assert TOPICS.everything == "/test/#"


def test_shared_filter_is_built_and_stripped_again() -> None:
    assert shared("ingest", "/test/#") == "$share/ingest//test/#"
    assert unshared("$share/ingest//test/#") == "/test/#"
    assert unshared("/test/#") == "/test/#"


levels = st.text(st.characters(exclude_characters="/+#\0", codec="utf-8"), min_size=1)


@given(st.sampled_from(ENVIRONMENTS), levels, st.sampled_from(IP_VERSIONS), st.integers(0, 2**32), levels)
def test_parsing_restores_the_parts_of_a_topic(env: str, name: str, ipv: IpVersion, server_id: int, rest: str) -> None:
    topics = Topics(env)  # type: ignore[arg-type]
    assert topics.parse(topics.status(name)) == Address("status", name)
    assert topics.parse(topics.assignment(name, ipv, server_id)) == Address("assignments", name, ipv, str(server_id))
    assert topics.parse(topics.results(name, ipv)) == Address("results", name, ipv)
    assert topics.parse(topics.data(name, rest)) == Address("data", name, rest=rest)
    assert unshared(shared("group", topics.results(name, ipv))) == topics.results(name, ipv)


@given(st.text(st.sampled_from("/+#$atest"), max_size=40) | st.text())
def test_any_text_can_be_parsed_as_a_topic(topic: str) -> None:
    address = TOPICS.parse(topic)
    assert address is None or topic.startswith("/test/")
