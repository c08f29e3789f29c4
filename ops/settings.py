"""Show and change the pool's settings in ``system_settings``. Their readers define the accepted values."""

import difflib
import json
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ops.errors import OperatorError, UsageError
from runtime.db.system_settings import BrokenSetting, Setting, all_settings, parse_section
from runtime.durations import duration_text
from schema.tables import system_settings

SETTINGS: Final = tuple(all_settings())
_KEYS: Final = frozenset(setting.key for setting in SETTINGS)


def find_setting(text: str) -> Setting:
    """Return the setting called ``text``.

    Raises:
        UsageError: there is no such setting.
    """
    known = {f"{setting.key}.{name}": setting for setting in SETTINGS for name in setting.names}
    if text in known:
        return known[text]
    similar = difflib.get_close_matches(text, known, n=1)
    advice = f"did you mean {similar[0]}?" if similar else "see 'ntppool-monitor settings show'"
    raise UsageError(f"setting {text!r}: not found; {advice}")


def as_given(setting: Setting, text: str) -> str:
    """Convert an operator's input to the JSON to store.

    Raises:
        UsageError: the value is invalid for this setting; the message names the accepted values.
    """
    raw = json.dumps(text) if setting.is_duration else text
    try:
        value = setting.parse(raw.encode())
    except BrokenSetting:
        raise UsageError(f"{setting}: {text!r}: must be {wanted(setting)}") from None
    return json.dumps(duration_text(value) if setting.is_duration else value)


def wanted(setting: Setting) -> str:
    """Describe the accepted values of a setting."""
    least, most = (shown(setting, bound) for bound in (setting.meta.ge, setting.meta.le))
    if setting.is_duration:
        return f"a duration such as 90s, 9m or 1h30m, {least} to {most}"
    return f"a whole number, {least} to {most}"


def shown(setting: Setting, value: float | None) -> str:
    """Return a value in the notation that people use."""
    return duration_text(value or 0.0) if setting.is_duration else str(value)


def show_settings(connection: Connection, only: Setting | None = None) -> list[dict[str, Any]]:
    """Return every setting (or one) with value, source and accepted values, followed by unknown ones."""
    rows = {row.key: row.value for row in connection.execute(sa.select(system_settings.c.key, system_settings.c.value))}
    found = [_show(setting, rows.get(setting.key)) for setting in SETTINGS if only in (None, setting)]
    if only is None:
        found += [{"setting": name, "read": False} for name in _unread(rows)]
    return found


def _show(setting: Setting, text: str | None) -> dict[str, Any]:
    value, problem = setting.default, None
    is_set = False
    try:
        fields = {} if text is None else parse_section(text)
        name = _name_in(setting, fields)
        if name is not None:
            value, is_set = setting.parse(fields[name]), True
    except BrokenSetting as error:
        problem = str(error)
    return {
        "setting": str(setting),
        "value": shown(setting, value) if setting.is_duration else value,
        "is_set": is_set,
        "problem": problem,
        "default": shown(setting, setting.default) if setting.is_duration else setting.default,
        "may_be": wanted(setting),
        "meaning": setting.meta.description,
    }


def _unread(rows: dict[str, str]) -> list[str]:
    """Return the names of values that no program of ours reads, because of other programs or typing errors."""
    found = sorted(rows.keys() - _KEYS)
    for key in sorted(rows.keys() & _KEYS):
        try:
            fields = parse_section(rows[key])
        except BrokenSetting:
            continue
        known = {name for setting in SETTINGS if setting.key == key for name in setting.names}
        found += [f"{key}.{name}" for name in sorted(fields.keys() - known)]
    return found


def setting_lines(found: list[dict[str, Any]]) -> list[str]:
    """Format the settings for people."""
    lines = []
    for one in found:
        if "value" not in one:
            lines.append(f"{one['setting']}: not read by any program of this system")
            continue
        where = "set" if one["is_set"] else "default"
        if one["problem"] is not None:
            where = f"INVALID, so the default applies: {one['problem']}"
        lines.append(f"{one['setting']} = {one['value']} ({where})")
        lines.append(f"    {one['meaning']}")
        lines.append(f"    {one['may_be']}; default {one['default']}")
    return lines


def set_setting(connection: Connection, setting: Setting, value: str, now: datetime) -> str:
    """Store a value (JSON from :func:`as_given`) and return a line that describes the change.

    Raises:
        OperatorError: the row does not hold a JSON object.
    """
    fields = _locked(connection, setting)
    before = _show(setting, None if fields is None else json.dumps(fields))
    found = dict(fields or {})
    found[_name_in(setting, found) or setting.name] = json.loads(value)
    text = json.dumps(found)
    if fields is None:
        connection.execute(sa.insert(system_settings).values(key=setting.key, value=text, created_on=now))
    else:
        _update(connection, setting.key, text)
    return f"{setting}: was {before['value']}, is {json.loads(value)}; workers apply it within a minute"


def reset_setting(connection: Connection, setting: Setting) -> str:
    """Remove a value, so that the default applies, and return a line that describes the change.

    Raises:
        OperatorError: the row does not hold a JSON object.
    """
    fields = _locked(connection, setting)
    default = shown(setting, setting.default)
    kept = {name: value for name, value in (fields or {}).items() if name not in setting.names}
    if kept == (fields or {}):
        return f"{setting}: is already {default}, its default"
    _update(connection, setting.key, json.dumps(kept))
    return f"{setting}: is {default}, its default; workers apply it within a minute"


def _locked(connection: Connection, setting: Setting) -> dict[str, Any] | None:
    """Return all values of the setting's row; ``None`` if there is no row."""
    s = system_settings.c
    row = connection.execute(sa.select(s.value).where(s.key == setting.key).with_for_update()).first()
    if row is None:
        return None
    try:
        return {name: json.loads(bytes(raw)) for name, raw in parse_section(row.value).items()}
    except BrokenSetting as error:
        raise OperatorError(
            f"system_settings {setting.key!r} {error}: fix it, or remove the whole row with "
            f"'ntppool-monitor settings reset {setting.key}'"
        ) from None


def reset_key(connection: Connection, key: str) -> str:
    """Remove all values of a key, valid or not, and return a line that describes the change.

    Raises:
        UsageError: it is not a key of our settings.
    """
    if key not in _KEYS:
        raise UsageError(f"key {key!r}: must be one of {', '.join(sorted(_KEYS))}, or a setting")
    connection.execute(sa.delete(system_settings).where(system_settings.c.key == key))
    return f"{key}: all its settings have their defaults again; workers apply it within a minute"


def _name_in(setting: Setting, fields: Any) -> str | None:
    return next((name for name in setting.names if name in fields), None)


def _update(connection: Connection, key: str, text: str) -> None:
    connection.execute(sa.update(system_settings).where(system_settings.c.key == key).values(value=text))
