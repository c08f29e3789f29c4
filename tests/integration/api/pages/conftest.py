"""Provide a ledger with one account, and people who log in with keys; a module provides its own ``app``."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from fastapi import FastAPI
from sqlalchemy.engine import Engine

from testbed.fixtures.pages import Browser, Login, ManualTime, account_key, browser
from testbed.fixtures.registering import account


@pytest.fixture
def now() -> ManualTime:
    return ManualTime()


@pytest.fixture
def owned(sqlite_engine: Engine) -> int:
    """Return an account."""
    return account(sqlite_engine, "4xhq2c9")


@pytest.fixture
def log_in(app: FastAPI, sqlite_engine: Engine) -> Iterator[Login]:
    """Return a function that returns the browser of someone who has logged in with a key of an account."""
    with ExitStack() as stack:

        def logged_in(account_id: int) -> Browser:
            found = stack.enter_context(browser(app))
            found.log_in(account_key(sqlite_engine, account_id))
            return found

        yield logged_in
