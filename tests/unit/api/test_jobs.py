"""Test the periodic jobs of the API: their intervals, first runs and preconditions."""

from types import SimpleNamespace
from typing import Any, cast

from api.jobs import add_jobs
from api.published import Published
from api.services import Services
from runtime.http.tls import ServerTls
from runtime.worker import Worker


def test_jobs_of_the_api() -> None:
    added: dict[str, tuple[float, dict[str, Any]]] = {}

    async def undisturbed() -> None: ...

    def add(name: str, seconds: float, function: object, **options: Any) -> None:
        added[name] = (seconds, options)

    worker = cast(Worker, SimpleNamespace(jobs=SimpleNamespace(add=add), undisturbed=undisturbed))
    parts = cast(Services, None), cast(Published, None)
    add_jobs(worker, *parts, None)
    expected = {
        "registrations": (3600.0, {"at_once": True, "jitter_seconds": 300.0, "when": undisturbed}),
        "revocations": (5.0, {"at_once": True, "when": undisturbed}),
        "revocation list": (5.0, {"at_once": True, "when": undisturbed}),
        "agents": (30.0, {"at_once": True, "when": undisturbed}),
        "pepper": (3600.0, {"at_once": True, "when": undisturbed}),
    }
    assert added == expected
    add_jobs(worker, *parts, cast(ServerTls, object()))
    assert added == expected | {"certificate files": (5.0, {})}
