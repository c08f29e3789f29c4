"""Test the status line for systemd."""

import socket
from pathlib import Path

from agent.systemd import show_status


def test_status_is_sent_on_one_line(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(path)
        systemd.settimeout(5)
        show_status("waiting\nREADY=1 \x1b[2J " + "x" * 1000, {"NOTIFY_SOCKET": path})
        said = systemd.recv(4096)
    assert said.startswith(b"STATUS=waiting\\nREADY=1 \\x1b[2J xxx") and len(said) < 520 and b"\n" not in said


def test_nothing_happens_without_systemd(tmp_path: Path) -> None:
    for environ in ({}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}, {"NOTIFY_SOCKET": f"{tmp_path}/none"}):
        show_status("running", environ)
