"""Test when a score is logged, and when its fall triggers a review."""

from datetime import datetime, timedelta

import pytest

from scorer.policy import Logged, is_alarming, is_news

NOW = datetime(2026, 1, 2, 12, 0, 0)


def test_the_first_score_is_news() -> None:
    assert is_news(0.0, NOW, None)


@pytest.mark.parametrize(
    ("score", "before", "seconds", "news"),
    [
        (20.0, 20.0, 0, False),
        (20.0, 20.0, 899, False),
        (20.0, 20.0, 900, True),
        (19.0, 20.0, 299, False),  # exactly 5 %
        (19.0, 20.0, 300, True),
        (18.99, 20.0, 1, True),
        (21.0, 20.0, 299, False),
        (21.01, 20.0, 1, True),
        (-19.0, -20.0, 299, False),
        (-18.9, -20.0, 0, True),
        (0.0, 0.0, 899, False),
        (0.001, 0.0, 1, True),  # 5 % of nothing is nothing
        (5.0, 20.0, -1, False),  # older than the last
        (5.0, 20.0, 0, True),
    ],
)
def test_score_is_news_after_enough_change_or_time(score: float, before: float, seconds: int, news: bool) -> None:
    assert is_news(score, NOW, Logged(NOW - timedelta(seconds=seconds), before)) is news


@pytest.mark.parametrize(
    ("score", "before", "alarming"),
    [
        (19.0, 20.0, True),
        (19.01, 20.0, False),
        (9.99, 10.0, False),  # neither is handed out
        (10.0, 10.01, True),
        (10.01, 10.9, False),
        (9.5, 9.9, False),  # was below already, and fell by less than 1
        (8.5, 9.5, True),
        (-50.0, 5.0, True),
        (20.0, 5.0, False),
    ],
)
def test_fall_by_1_or_to_10_is_alarming(score: float, before: float, alarming: bool) -> None:
    assert is_alarming(score, before) is alarming
