"""Test for how long answers may be kept."""

from datetime import datetime, timedelta

import pytest

from web.caching import ONE_ROW, RESTING, USUAL, etag, is_known, of_history

NOW = datetime(2026, 11, 30, 12)
OLD = NOW - timedelta(hours=8, seconds=1)


@pytest.mark.parametrize(
    ("times", "header"),
    [
        ([], RESTING),
        ([NOW], ONE_ROW),
        ([NOW, NOW], USUAL),
        ([OLD, OLD], RESTING),
        ([OLD, NOW], USUAL),
        ([NOW - timedelta(hours=8)] * 2, USUAL),
    ],
)
def test_history(times: list[datetime], header: str) -> None:
    assert of_history(times, NOW) == header


def test_tags() -> None:
    tag = etag(b"body")
    assert tag == etag(b"body") != etag(b"other")
    for given in (tag, f"W/{tag}", f'"x", {tag}', "*"):
        assert is_known(given, tag)
    for given in (None, "", '"x"', tag.strip('"')):
        assert not is_known(given, tag)
