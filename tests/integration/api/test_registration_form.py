"""Test what the API refuses in a registration's form: another environment, and an account that does not exist."""

from pathlib import Path

import pytest
from sqlalchemy.engine import Engine

from testbed.fixtures.api import REGISTRATION, V4, Api, add_host, make_api
from testbed.fixtures.registering import account, new_id


@pytest.fixture
def api(sqlite_engine: Engine, tmp_path: Path) -> Api:
    return make_api(sqlite_engine, tmp_path)


async def register(api: Api, body: str, key: str | None = None) -> tuple[int, str]:
    headers = {"Registration-ID": new_id().clear, "Content-Type": "application/x-www-form-urlencoded"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    answer = await api.ask("POST", REGISTRATION, peer=V4, body=body.encode(), headers=headers)
    return answer.status_code, answer.text


async def test_agent_of_another_environment_is_refused_in_words(api: Api) -> None:
    assert (await register(api, "hostname=a&env=prod"))[0] == 200
    assert (await register(api, "hostname=a"))[0] == 200, "an older agent does not name it"
    status, text = await register(api, "hostname=a&env=test")
    assert status == 403 and "the API of prod, and the agent is one of test" in text and "--env" in text
    status, text = await register(api, "hostname=a&env=%1b[2J")
    assert status == 403 and "\x1b" not in text and "another environment" in text
    assert (await register(api, "hostname=a&env="))[0] == 403


async def test_unknown_account_is_refused_although_the_host_shows_a_key(api: Api) -> None:
    account(api.services.engine, "4xhq2c9")
    host = add_host(api, "uspao1")
    assert (await register(api, "a=4xhq2c9", host.key.clear))[0] == 200
    status, text = await register(api, "a=unknown", host.key.clear)
    assert status == 403 and "account of option -a is unknown" in text
