"""Test the lock of the state directory after its agent was killed."""

import subprocess
import sys
from pathlib import Path

from agent.state import Broker, Lock, State, provision
from testbed.paths import CHECKOUT

TOKEN = "header.body.signature"
STATE = State(name="lock.devel.mon.example", broker=Broker(host="127.0.0.1", port=1883))


def test_lock_is_released_when_its_process_dies(tmp_path: Path) -> None:
    directory = provision(tmp_path, "devel", STATE, TOKEN)
    code = "import os,sys,pathlib;from agent.state import *;Lock(StateDirectory(pathlib.Path(sys.argv[1]),'devel'))"
    code += ".__enter__();os.kill(os.getpid(),9)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=CHECKOUT, check=False)
    assert directory.lock_file.exists()
    with Lock(directory):
        pass
