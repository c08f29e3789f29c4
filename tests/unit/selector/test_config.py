"""Test an agent's configuration: merged from both rows and the defaults, and robust against invalid values."""

import json
from typing import Any

import pytest

from schema.messages import MonitorConfig, ProtocolConfig
from selector.config import merge_patch, monitor_configs
from selector.monitors import MonitorRow
from selector.rows import AccountLimit


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [  # RFC 7396, appendix A
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch_conforms_to_rfc_7396(target: Any, patch: Any, result: Any) -> None:
    assert merge_patch(target, patch) == result


class Heard:
    """Records the warnings."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str, str]] = []

    def __call__(self, kind: str, key: str, what: str) -> None:
        self.said.append((kind, key, what))


def row(ipv: Any = "v4", *, config: Any = "", status: str = "active", name: str = "m.test.mon.example") -> MonitorRow:
    return MonitorRow(
        id=1,
        name=name,
        named=True,
        ipv=ipv,
        status=status,
        ip="192.0.2.1" if ipv == "v4" else "2001:db8::1",
        account_id=None,
        limit=AccountLimit(2),
        config=config if isinstance(config, str) else json.dumps(config),
        gone=False,
    )


def config_of(
    *rows: MonitorRow, v4: Any = "", v6: Any = "", samples: int = 3
) -> tuple[MonitorConfig, list[tuple[str, str, str]]]:
    heard = Heard()
    defaults = {
        "settings-v4.system": v4 if isinstance(v4, str) else json.dumps(v4),
        "settings-v6.system": v6 if isinstance(v6, str) else json.dumps(v6),
    }
    [config] = monitor_configs(rows, defaults, samples, heard).values()
    return config, heard.said


def test_both_protocols_of_a_monitor_are_in_its_config() -> None:
    config, said = config_of(row("v6", status="testing"), row("v4"))
    assert config == MonitorConfig(
        protocols={
            "v4": ProtocolConfig(status="active", ip="192.0.2.1"),
            "v6": ProtocolConfig(status="testing", ip="2001:db8::1"),
        }
    )
    assert said == []


def test_monitors_own_config_overrides_the_protocols_settings() -> None:
    config, said = config_of(
        row("v4", config={"samples": 5, "base_checks": None, "nat_ip": "10.0.0.2"}),
        row("v6"),
        v4={"samples": 4, "base_checks": ["192.0.2.9"], "otlp_log_level": "info"},
        v6={"base_checks": ["2001:db8::9", "2001:db8::a"]},
    )
    assert config.protocols["v4"] == ProtocolConfig(status="active", ip="192.0.2.1", nat_ip="10.0.0.2", samples=5)
    assert config.protocols["v6"].base_checks == ["2001:db8::9", "2001:db8::a"]
    assert config.log_level == "info"
    assert said == []


def test_samples_default_to_the_pools_setting() -> None:
    config, _ = config_of(row(), samples=1)
    assert config.protocols["v4"].samples == 1
    config, _ = config_of(row(), v4={"samples": 2}, samples=1)
    assert config.protocols["v4"].samples == 2


@pytest.mark.parametrize("broken", ["{", "[1]", "17", '"text"', "[" * 100_000])
def test_invalid_config_is_replaced_by_the_defaults_and_logged(broken: str) -> None:
    config, said = config_of(row(config=broken), v4={"samples": 4})
    assert config.protocols["v4"].samples == 4
    [(kind, key, what)] = said
    assert (kind, key) == ("config", "m.test.mon.example v4")
    assert "defaults are used" in what


def test_invalid_protocol_settings_are_logged_under_their_name() -> None:
    config, said = config_of(row(config={"samples": 2}), v4="nonsense")
    assert config.protocols["v4"].samples == 2
    assert [key for _, key, _ in said] == ["settings-v4.system"]


@pytest.mark.parametrize(
    ("key", "value", "right"),
    [
        ("samples", 0, "1 to 10"),
        ("samples", 11, "1 to 10"),
        ("samples", True, "1 to 10"),
        ("samples", "3", "1 to 10"),
        ("nat_ip", "home", "IP address"),
        ("nat_ip", 7.5, "IP address"),
        ("base_checks", "192.0.2.1", "list"),
        ("base_checks", [1], "list"),
        ("base_checks", [""], "list"),
        ("otlp_log_level", "loud", "debug"),
        ("otlp_log_level", 3, "debug"),
    ],
)
def test_invalid_value_falls_back_to_its_default_and_others_are_kept(key: str, value: Any, right: str) -> None:
    good = {"samples": 5, "nat_ip": "10.0.0.2", "base_checks": ["192.0.2.9"], "otlp_log_level": "error"}
    config, said = config_of(row(config={**good, key: value}))
    sound, _ = config_of(row(config={k: v for k, v in good.items() if k != key}))
    assert config == sound
    [(_, who, what)] = said
    assert who == f"m.test.mon.example v4 {key}"
    assert right in what


@pytest.mark.parametrize(("level", "means"), [("WARN", "warning"), ("Info", "info"), ("", None), (None, None)])
def test_log_levels_are_accepted_in_other_agents_spelling(level: Any, means: Any) -> None:
    config, said = config_of(row(config={"otlp_log_level": level}))
    assert config.log_level == means
    assert said == []


def test_protocol_with_an_unknown_status_is_left_out() -> None:
    config, [(_, _, what)] = config_of(row("v4", status="asleep"), row("v6"))
    assert list(config.protocols) == ["v6"]
    assert "asleep" in what
