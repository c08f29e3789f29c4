"""Test what the routes and pages of a process work with."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from opentelemetry.metrics import NoOpMeter
from pydantic import SecretStr

from api.services import build_services
from runtime.clock import Clock, ClockDoubted
from runtime.settings import WorkerSettings
from runtime.worker import Worker


def test_nothing_is_signed_or_stored_with_a_doubted_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = WorkerSettings(deployment_mode="devel", jwt_key=SecretStr("x" * 48), ca_directory=tmp_path)
    parts: dict[str, Any] = {"engine": None, "telemetry": SimpleNamespace(meter=NoOpMeter("api")), "clock": Clock()}
    services = build_services(cast(Worker, SimpleNamespace(settings=settings, **parts)))
    monkeypatch.setattr(Clock, "doubt", None)
    assert services.now().tzinfo is not None
    monkeypatch.setattr(Clock, "doubt", "the database's clock is a day ahead")
    with pytest.raises(ClockDoubted):
        services.now()
