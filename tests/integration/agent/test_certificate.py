"""Test reading the expiry date of certificates made by openssl."""

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agent.certificate import valid_until


@pytest.mark.parametrize("key", ["rsa:2048", "ec -pkeyopt ec_paramgen_curve:P-256"])
@pytest.mark.parametrize("days", [30, 20_000])
def test_reads_the_expiry_date_of_a_certificate(tmp_path: Path, key: str, days: int) -> None:
    """In 20 000 days it is later than 2049, and dates have another format (RFC 5280, 4.1.2.5)."""
    path = tmp_path / "cert.pem"
    command = f"openssl req -x509 -newkey {key} -nodes -keyout /dev/null -out {path} -days {days} -subj /CN=x"
    subprocess.run(command.split(), check=True, capture_output=True)
    assert abs(valid_until(path) - datetime.now(UTC) - timedelta(days=days)) < timedelta(minutes=1)
