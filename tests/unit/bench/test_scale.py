"""Test the arguments of scripts/scale, and its client of the API."""

import argparse
import asyncio

import pytest

from bench.scale.__main__ import _counts, _positive
from bench.scale.api_load import read_answer


def test_counts_are_separated_by_commas() -> None:
    assert _counts("1,2,4") == [1, 2, 4]


@pytest.mark.parametrize("text", ["", "0", "1,,2", "x", "17", "-1"])
def test_invalid_counts_are_refused(text: str) -> None:
    with pytest.raises((argparse.ArgumentTypeError, ValueError)):
        _counts(text)


@pytest.mark.parametrize("text", ["0", "-1", "nan", "x"])
def test_invalid_minutes_are_refused(text: str) -> None:
    with pytest.raises((argparse.ArgumentTypeError, ValueError)):
        _positive(text)


async def test_answers_are_read_to_their_end() -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
    reader.feed_data(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
    reader.feed_data(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}")
    reader.feed_eof()
    assert [await read_answer(reader), await read_answer(reader)] == [True, False]
    with pytest.raises(asyncio.IncompleteReadError):
        await read_answer(reader)
