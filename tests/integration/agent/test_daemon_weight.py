"""Test that the daemon stays small: it imports nothing that only the command line or the server side needs."""

import subprocess
import sys
import tomllib

from agent.version import VERSION
from testbed.paths import CHECKOUT

HEAVY = [
    "pydantic",
    "typer",
    "rich",
    "click",
    "opentelemetry",
    "urllib.request",
    "http",
    "email",
    "ulid",
    "sqlalchemy",
]

LIST_MODULES = """
import sys
from agent.lazy_imports import postpone
postpone("urllib.request")
import agent.service
print("\\n".join(name for name, module in sys.modules.items() if type(module).__name__ == "module"))
"""


USE_POSTPONED = """
import sys
from agent.lazy_imports import postpone
postpone("urllib.request")
import urllib.request
from urllib import request
assert "http.client" not in sys.modules
assert urllib.request.getproxies() is not None
from urllib.request import Request
assert sys.modules["urllib.request"].Request is Request is request.Request
assert isinstance(request.Request("http://localhost"), urllib.request.Request)
"""


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_daemon_imports_no_heavy_package() -> None:
    loaded = run(LIST_MODULES).split()
    assert "aiomqtt" in loaded
    assert [name for name in loaded if name in HEAVY or name.partition(".")[0] in HEAVY] == []


def test_postponed_module_is_loaded_on_first_use() -> None:
    run(USE_POSTPONED)


def test_version_matches_pyproject() -> None:
    assert tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["version"] == VERSION
