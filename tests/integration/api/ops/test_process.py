"""Test operators' routes of a real API process: lines arrive while it waits, and it stops in the middle of a check."""

import asyncio
import json
import signal
from pathlib import Path
from urllib.request import Request, urlopen

from auth.settings import peppers
from testbed.fixtures.api import SECRET, api_settings
from testbed.fixtures.api_process import ApiProcess
from testbed.fixtures.broker import Broker
from testbed.fixtures.ops import IP, OPERATORS, add_agent, good, key_of_account, scripted, silent
from testbed.fixtures.registering import account
from testbed.fixtures.worker_process import write_key
from testbed.waiting import PATIENCE, wait_until


async def test_lines_arrive_while_the_check_runs_and_a_stop_does_not_wait_for_it(
    tmp_path: Path, broker: Broker
) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    settings = {
        "MQTT_PORT": str(broker.port),
        "JWT_KEY_FILE": str(write_key(keys, broker)),
        "API_KEY_PEPPER": SECRET,
        "API_OPERATORS": OPERATORS,
    }
    with ApiProcess(tmp_path, **settings) as running:
        answering, mute = (add_agent(running.engine, f"nlams9{kind}-process") for kind in ("1", "2"))
        key = key_of_account(running.engine, peppers(api_settings(tmp_path, "devel")), account(running.engine, "ops"))
        running.process.wait_for_log("connected to")
        request = Request(
            f"http://127.0.0.1:{running.port}/ops/check/ntp/{IP}",
            method="POST",
            headers={"Authorization": f"Bearer {key}"},
        )
        async with scripted(broker, {answering: good, mute: silent}):
            answer = await asyncio.to_thread(urlopen, request, timeout=PATIENCE)
            with answer:
                assert answer.headers["content-type"] == "application/x-ndjson"
                plan, found = [json.loads(await asyncio.to_thread(answer.readline)) for _ in range(2)]
                assert sorted(one["monitor"] for one in plan["asked"]) == [answering, mute]
                assert found["monitor"] == answering and found["result"]["rtt"] == 0.02
                process = running.process.process
                process.send_signal(signal.SIGTERM)
                await wait_until(lambda: process.poll() is not None, within=PATIENCE)
        assert process.returncode == 0, running.process.log_text()
        log = running.process.log_text()
        assert f"check of {IP} by key 1 of account" in log and log.count("check of") == 1
        assert key not in log and "ended without waiting" not in log
