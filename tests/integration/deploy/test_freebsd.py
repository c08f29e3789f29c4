"""Test FreeBSD's rc.d script by its verbs, with a real shell.

``rc.subr`` and ``daemon`` are stand-ins for FreeBSD's, of which Linux has neither; they do what rc.subr(8) and
daemon(8) say of the parts that the script uses.
"""

import getpass
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from testbed.paths import CHECKOUT
from testbed.waiting import block_until

SCRIPT: Final = CHECKOUT / "deploy" / "freebsd" / "ntppool_agent"

RC_SUBR: Final = r"""
warn() { echo "$name: WARNING: $*" >&2; }
load_rc_config() { . "$RC_CONF"; }
checkyesno() { eval "[ \"\$$1\" = YES ]"; }
check_pidfile() {
    [ -f "$1" ] || return
    read -r _pid <"$1"
    case $(tr '\0' ' ' 2>/dev/null <"/proc/$_pid/cmdline") in *"$2 "*) echo "$_pid" ;; esac
}
wait_for_pids() { for _pid; do while kill -0 "$_pid" 2>/dev/null; do sleep 0.02; done; done; }
run_rc_command() {
    rc_arg=$1
    shift
    case $rc_arg in one*) rc_arg=${rc_arg#one} && eval "$rcvar=YES" ;; esac
    case " start stop restart status $extra_commands " in
    *" $rc_arg "*) ;;
    *) echo "usage: $0 [one](start|stop|restart|status|$extra_commands)" >&2 && return 1 ;;
    esac
    if [ "$rc_arg" != status ] && ! checkyesno "$rcvar"; then
        echo "Cannot '$rc_arg' $name. Set $rcvar to YES in /etc/rc.conf or use 'one$rc_arg' instead of '$rc_arg'."
        return 0
    fi
    eval "_cmd=\$${rc_arg}_cmd"
    eval "$_cmd $*" || return 1
}
"""

DAEMON: Final = """
import getopt, os, signal, subprocess, sys, time

options, command = getopt.getopt(sys.argv[1:], "cfHR:P:p:u:o:t:")
given = dict(options)
assert {"-c", "-H", "-R", "-t"} <= given.keys() and given["-u"]
log = os.open(given["-o"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
if os.fork():
    os._exit(0)
os.setsid()
os.chdir("/")
if "-f" in given:
    for standard in range(3):
        os.dup2(os.open(os.devnull, os.O_RDWR), standard)
with open(given["-P"], "w") as file:
    file.write(f"{os.getpid()}\\n")
ending = []
signal.signal(signal.SIGTERM, lambda *_: (ending.append(1), child.terminate(), os._exit(1)))
while not ending:
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    with open(given["-p"], "w") as file:
        file.write(f"{child.pid}\\n")
    child.wait()
    time.sleep(0.02)
"""

AGENT: Final = f"{sys.executable} -P -m agent"
IDLE: Final = "#!/bin/sh\n[ \"$3\" != version ] || exit 0\ntrap 'sleep 0.2; exit 0' TERM\necho begins\n" + (
    "trap 'echo hangup' HUP\nwhile :; do sleep 0.05; done\n"
)
"""A program in place of the agent, which needs a moment to end."""


class Service:
    """The script, with its paths moved below a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.program = directory / "ntppool-agent"
        self.logs = directory / "logs"
        self.pids = directory / "run"
        self.daemon = directory / "daemon"
        for made in (self.logs, self.pids):
            made.mkdir()
        moved = {
            "/etc/rc.subr": self._write("rc.subr", RC_SUBR),
            "/usr/sbin/daemon": self._write("daemon", f"#!{sys.executable} -P\n{DAEMON}"),
            "/usr/local/bin/ntppool-agent": self._write("ntppool-agent", IDLE),
        }
        text = SCRIPT.read_text()
        for path, there in moved.items():
            assert path in text
            text = text.replace(path, str(there))
        self.script = self._write("ntppool_agent", text)
        self.configure()

    def configure(self, environments: str = "devel", enable: str = "YES") -> None:
        """Write rc.conf."""
        values = {
            "enable": enable,
            "environments": environments,
            "account": getpass.getuser(),
            "state": self.directory / "state",
            "logs": self.logs,
            "pids": self.pids,
        }
        lines = [f'ntppool_agent_{key}="{value}"\n' for key, value in values.items()]
        self._write("rc.conf", "".join(lines))

    def use_agent(self, defaults: str = "") -> None:
        """Use the real program, with these settings."""
        self._write("defaults", defaults)
        lines = ("#!/bin/sh", f"export MONITOR_DEFAULTS_FILE={self.directory}/defaults", f'exec {AGENT} "$@"', "")
        self._write("ntppool-agent", "\n".join(lines))

    def __call__(self, *arguments: str) -> tuple[int, str]:
        """Run a verb, as service(8) does; return exit code and output."""
        environ = {"PATH": "/sbin:/bin:/usr/sbin:/usr/bin", "HOME": "/", "RC_CONF": str(self.directory / "rc.conf")}
        command = ["/bin/sh", str(self.script), *arguments]
        ended = subprocess.run(
            command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False
        )
        return ended.returncode, ended.stdout

    def pid(self, environment: str = "devel", of: str = "") -> int:
        """Return the process id of the agent, or of its supervisor; it is written some time after the start."""
        path = self.pids / f"ntppool-agent-{environment}{of}.pid"
        return int(block_until(lambda: path.exists() and path.read_text().strip(), str(path)))

    def log(self, environment: str = "devel") -> str:
        """Return the log."""
        path = self.logs / f"ntppool-agent-{environment}.log"
        return path.read_text() if path.exists() else ""

    def processes(self) -> list[int]:
        """Return all processes of these programs."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = path.read_bytes().decode(errors="replace")
            except OSError:
                continue
            if str(self.directory) in line:
                found.append(int(path.parent.name))
        return found

    def _write(self, name: str, text: str) -> Path:
        path = self.directory / name
        path.write_text(text)
        path.chmod(0o755)
        return path


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    made = Service(tmp_path)
    yield made
    for number in made.processes():
        os.kill(number, signal.SIGKILL)


def running(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_agent_runs_until_it_is_stopped(service: Service) -> None:
    service.use_agent()
    code, said = service("start")
    assert (code, said) == (0, "Starting ntppool_agent for devel.\n")
    block_until(lambda: "has not been set up" in service.log(), service.log)
    state = service.directory / "state"
    assert (state.stat().st_mode & 0o777, (state / "devel" / "lock").exists()) == (0o700, True)
    assert (service.logs / "ntppool-agent-devel.log").stat().st_mode & 0o077 == 0
    agent, supervisor = service.pid(), service.pid(of=".supervisor")
    code, said = service("status")
    assert code == 0
    assert said.startswith(f"ntppool_agent runs for devel as process {agent}; '")
    assert service("start") == (0, "ntppool_agent already runs for devel.\n")
    assert service.pid() == agent
    assert service("reload") == (0, "")
    assert service("stop") == (0, "Stopping ntppool_agent for devel.\n")
    assert not running(agent) and not running(supervisor), "stop returns when both have ended"
    assert "Traceback" not in service.log()
    assert service("status") == (1, "ntppool_agent does not run for devel.\n")


def test_invalid_settings_are_reported_and_nothing_is_started(service: Service) -> None:
    service.use_agent("MONITOR_LOG_LEVEL=loud\n")
    code, said = service("start")
    assert code == 1
    assert "MONITOR_LOG_LEVEL" in said and "loud" in said
    assert "Starting" not in said
    assert list(service.pids.iterdir()) == []


def test_environments_are_controlled_together_or_one_by_one(service: Service) -> None:
    service.configure("prod devel")
    assert service("start")[0] == 0
    prod, devel = service.pid("prod"), service.pid("devel")
    assert service("status")[1].count(" runs for ") == 2
    assert service("restart", "devel") == (0, "Stopping ntppool_agent for devel.\nStarting ntppool_agent for devel.\n")
    block_until(lambda: running(service.pid("devel")) and service.pid("devel") != devel)
    assert not running(devel), "the new one begins when the former one has ended"
    assert service("stop", "prod")[0] == 0
    assert not running(prod)
    code, said = service("status")
    assert code == 1, "one of them does not run"
    assert "does not run for prod" in said and " runs for devel" in said
    assert service("reload", "devel") == (0, "")
    block_until(lambda: "hangup" in service.log("devel"))
    assert service("stop")[1] == "ntppool_agent does not run for prod.\nStopping ntppool_agent for devel.\n"


def test_agent_that_dies_is_started_again(service: Service) -> None:
    service("start")
    agent = service.pid()
    block_until(lambda: "begins" in service.log())
    os.kill(agent, signal.SIGKILL)
    block_until(lambda: service.log().count("begins") == 2 and service.pid() != agent)
    assert service("status")[0] == 0


def test_agent_without_its_supervisor_is_ended_before_another_one_is_started(service: Service) -> None:
    service("start")
    agent, supervisor = service.pid(), service.pid(of=".supervisor")
    os.kill(supervisor, signal.SIGKILL)
    block_until(lambda: not running(supervisor))
    assert service("status")[0] == 1
    assert service("start") == (0, "Starting ntppool_agent for devel.\n")
    assert not running(agent)
    block_until(lambda: service("status")[0] == 0)


def test_stale_process_ids_are_no_agents(service: Service) -> None:
    for of in ("", ".supervisor"):
        (service.pids / f"ntppool-agent-devel{of}.pid").write_text(f"{2**22 + 7}\n")
    assert service("status")[0] == 1
    assert service("stop") == (0, "ntppool_agent does not run for devel.\n")
    assert service("start") == (0, "Starting ntppool_agent for devel.\n")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("start", "production"), 1, "production: must be prod, test or devel"),
        (("explode",), 1, "usage:"),
    ],
)
def test_wrong_arguments_are_refused(service: Service, arguments: tuple[str, ...], code: int, said: str) -> None:
    ended, text = service(*arguments)
    assert ended == code
    assert said in text
    assert list(service.pids.iterdir()) == []


def test_service_that_is_not_enabled_starts_by_hand_only(service: Service) -> None:
    service.configure(enable="NO")
    assert "Cannot 'start' ntppool_agent" in service("start")[1]
    assert list(service.pids.iterdir()) == []
    assert service("onestart") == (0, "Starting ntppool_agent for devel.\n")
    assert running(service.pid()) and running(service.pid(of=".supervisor"))
    assert service("onestop") == (0, "Stopping ntppool_agent for devel.\n")


def test_logs_of_all_environments_are_rotated() -> None:
    rotated = (SCRIPT.parent / "newsyslog.conf").read_text().splitlines()
    rows = [line.split() for line in rows_without_comments(rotated)]
    assert [(row[0], row[-1]) for row in rows] == [
        (f"/var/log/ntppool-agent-{env}.log", f"/var/run/ntppool-agent-{env}.supervisor.pid")
        for env in ("prod", "test", "devel")
    ]


def rows_without_comments(lines: list[str]) -> list[str]:
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("script", ["ntppool_agent", "install"])
def test_shellcheck_finds_nothing(script: str) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    command = ["shellcheck", "--shell=sh", "--exclude=SC3043", str(SCRIPT.parent / script)]  # FreeBSD's sh has local
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout
