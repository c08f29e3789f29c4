"""Take over the state of the older agent, written in Go, whose ``state.json`` is at the same path in another format.

Its file stays as ``state.go.json``. Key and name are taken over; everything else comes from the API.
"""

from typing import Final

import msgspec

from agent.files import write_durably
from agent.state import MAX_STATE, Api, StateDirectory, StateFile, state_error, writing_state
from schema.names import InvalidName, check_monitor_name

_KEYS: Final = {"API", "Data", "DataSha"}


class _GoApi(msgspec.Struct, frozen=True):
    key: str = msgspec.field(name="APIKey", default="")

    def __repr__(self) -> str:
        return "_GoApi(...)"


class _GoData(msgspec.Struct, frozen=True):
    tls_name: str = msgspec.field(name="TLSName", default="")


class _GoState(msgspec.Struct, frozen=True):
    api: _GoApi = msgspec.field(name="API", default=_GoApi())
    data: _GoData = msgspec.field(name="Data", default=_GoData())


def take_over(directory: StateDirectory, api_url: str) -> bool:
    """Replace the older agent's ``state.json`` with one of ours; return whether there was one.

    A crash in between leaves either file complete, and the next call finishes the work.

    Raises:
        StateError: it cannot be read or written.
    """
    if _recognise(directory) is None:
        return False
    with writing_state(directory):
        found = _recognise(directory)  # another process may have been faster, and have gone on
        if found is not None:
            _replace(directory, *found, api_url)
        return found is not None


def _replace(directory: StateDirectory, content: bytes, state: _GoState, api_url: str) -> None:
    try:
        write_durably(directory.go_state_file, content)  # 0600, unlike the original
    except OSError as error:
        raise state_error(f"{directory.go_state_file}: cannot be written", error) from error
    api = _api(state, api_url)
    if api is None:
        directory.state_file.unlink(missing_ok=True)  # it has never been registered
    else:
        directory.write_file(StateFile(name=_name(directory, state), api=api))


def _recognise(directory: StateDirectory) -> tuple[bytes, _GoState] | None:
    try:
        with directory.state_file.open("rb") as file:
            content = file.read(MAX_STATE + 1)
    except OSError:
        return None  # reading it as our own reports the reason
    try:
        members = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
        if not members or not members.keys() <= _KEYS or ("API" not in members and "Data" not in members):
            return None
        return content, msgspec.json.decode(content, type=_GoState)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _name(directory: StateDirectory, state: _GoState) -> str | None:
    try:
        return check_monitor_name(state.data.tls_name, directory.env)
    except InvalidName:
        return None  # the API tells it again


def _api(state: _GoState, url: str) -> Api | None:
    try:
        return msgspec.convert({"url": url, "key": state.api.key}, Api)
    except msgspec.ValidationError:
        return None
