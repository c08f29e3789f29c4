"""Test which pairs are read for publishing, on every database."""

from sqlalchemy.engine import Engine

from selector.assignments import read_pairs
from testbed.fixtures.selector import unique
from testbed.fixtures.world import add_monitor, add_pair, add_scorer, add_server


def test_exactly_the_requested_pairs_are_read(engine: Engine) -> None:
    with engine.begin() as connection:
        servers = [add_server(connection), add_server(connection)]
        names = [unique("m"), unique("n")]
        monitors = [add_monitor(connection, name) for name in names]
        for server in servers:
            for monitor in monitors:
                add_pair(connection, server, monitor, "testing")
        asked = list(zip(servers, monitors, strict=True))
        missing = [(servers[0], monitors[1] + 1), (servers[1] + 1, monitors[0])]
        found = read_pairs(connection, [*asked, *asked, *missing])
        none = read_pairs(connection, [])
    assert [(row.server_id, row.monitor, row.status) for row in sorted(found, key=lambda row: row.server_id)] == [
        (server, name, "testing") for server, name in zip(servers, names, strict=True)
    ]
    assert none == []


def test_pairs_of_scorers_and_settings_are_not_read(engine: Engine) -> None:
    with engine.begin() as connection:
        server = add_server(connection)
        others = [add_scorer(connection), add_monitor(connection, "settings-v4.system")]
        for other in others:
            add_pair(connection, server, other)
        assert read_pairs(connection, [(server, other) for other in others]) == []
