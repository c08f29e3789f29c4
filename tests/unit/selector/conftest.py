"""HYPOTHESIS_PROFILE=thorough runs many more examples, which need more time than a test is usually given."""

import pytest

from testbed.selection.strategies import THOROUGH


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if THOROUGH:
        for item in items:
            item.add_marker(pytest.mark.timeout(3600))
