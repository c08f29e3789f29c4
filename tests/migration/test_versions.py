"""Test that current and required database versions equal Alembic's, and are known without loading it."""

import subprocess
import sys

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

import schema
from runtime.db.engine import open_database
from runtime.db.migrate import current, newest, upgrade
from testbed.fixtures.database import DatabaseServer


def test_newest_is_alembics_head() -> None:
    assert schema.__file__ is not None
    scripts = ScriptDirectory(schema.__file__.replace("__init__.py", "migrations"))
    assert newest() == scripts.get_current_head()


def test_current_equals_the_version_that_alembic_reads(server: DatabaseServer) -> None:
    engine = open_database(server.create("of_versions"))
    try:
        assert current(engine) is None
        upgrade(engine)
        with engine.connect() as connection:
            assert current(engine) == MigrationContext.configure(connection).get_current_revision() == newest()
        with engine.begin() as connection:
            connection.execute(sa.text("DELETE FROM `alembic_version`"))
        assert current(engine) is None
    finally:
        engine.dispose()


def test_starting_a_command_does_not_load_alembic() -> None:
    program = (
        "import sys, ops.__main__; from runtime.db.migrate import newest; newest(); print('alembic' in sys.modules)"
    )
    started = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert started.stdout == "False\n"
