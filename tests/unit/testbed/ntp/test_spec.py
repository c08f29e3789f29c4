"""Test a fleet's file: precise messages about errors, and an exact round trip of valid ones."""

import math
from pathlib import Path

import pytest

from testbed.ntp.spec import (
    Behaviour,
    ServerSpec,
    SpecError,
    decode_specs,
    encode_specs,
    read_specs,
    reference_octets,
)


def test_fleet_survives_encoding_and_decoding() -> None:
    specs = (
        ServerSpec(
            address="127.1.2.3", port=1123, name="bad", offset=-0.4, behaviour=Behaviour.SHORT, then_answer=True
        ),
        ServerSpec(address="::1", port=1123, kiss="RATE", kiss_share=0.25, reference_id="GPS"),
    )
    assert decode_specs(encode_specs(specs), "x.json") == specs


@pytest.mark.parametrize(
    ("field", "value", "right"),
    [
        ("address", "192.0.2.1", "127.0.0.0/8"),
        ("address", "localhost", "127.0.0.0/8"),
        ("port", 65536, "0 to 65535"),
        ("port", -1, "0 to 65535"),
        ("offset", 1e9, "at most a year"),
        ("offset", math.nan, "at most a year"),
        ("delay", -0.001, "0 to 60"),
        ("delay", math.inf, "0 to 60"),
        ("jitter", -1.0, "0 to 60"),
        ("asymmetry", -0.1, "towards the server is not negative"),
        ("loss", 1.01, "0 to 1"),
        ("kiss_share", -0.1, "0 to 1"),
        ("hold", -86401.0, "at most a day"),
        ("hold", math.inf, "at most a day"),
        ("stratum", 256, "0 to 255"),
        ("leap", 4, "0 to 3"),
        ("root_delay", -0.1, "0 to 65535"),
        ("root_dispersion", 65536.0, "0 to 65535"),
        ("reference_id", "GALILEO", "four ASCII"),
        ("reference_id", "ÄÖ", "four ASCII"),
        ("kiss", "RAT", "four ASCII"),
    ],
)
def test_invalid_value_is_named_with_the_allowed_values(field: str, value: object, right: str) -> None:
    with pytest.raises(ValueError) as error:
        ServerSpec(**{"address": "127.0.0.1"} | {field: value})  # type: ignore[arg-type]
    assert str(error.value).startswith(f"{field} is {value!r}; must be ")
    assert right in str(error.value)


@pytest.mark.parametrize("asymmetry", [-0.01, 0.0, 0.02])
def test_asymmetry_may_reduce_the_delay_to_zero(asymmetry: float) -> None:
    assert ServerSpec(address="127.0.0.1", delay=0.01, asymmetry=asymmetry).asymmetry == asymmetry


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[{"address": "127.0.0.1", "loss": 2}]', "server 0: loss is 2.0; must be 0 to 1"),
        (
            '[{"address": "127.0.0.1"}, {"address": "127.0.0.2", "stratum": "two"}]',
            "server 1, stratum is 'two': Expected",
        ),
        ('[{"address": "127.0.0.1", "ofset": 1}]', "server 0: Object contains unknown field `ofset`"),
        ('[{"port": 1}]', "server 0: Object missing required field `address`"),
        (
            '[{"address": "127.0.0.1", "behaviour": "rude"}]',
            "server 0, behaviour is 'rude': Invalid enum value 'rude'; ",
        ),
        (
            '[{"address": "127.0.0.1"}, {"address": "127.0.0.1"}]',
            "server 1: 127.0.0.1 port 123 is already used by server 0",
        ),
        ("[]", "the list is empty; must be a list with at least one server"),
        ("{}", "the file: Expected `array`, got `object`"),
        ("[", "not JSON: Input data was truncated"),
    ],
)
def test_invalid_file_is_named_with_place_and_value(text: str, reason: str) -> None:
    with pytest.raises(SpecError) as error:
        decode_specs(text.encode(), "fleet.json")
    assert str(error.value).startswith(f"fleet.json: {reason}")


def test_error_about_an_invalid_behaviour_lists_the_valid_ones() -> None:
    with pytest.raises(SpecError, match=r"must be one of normal, silent, short, .*forged_kiss$"):
        decode_specs(b'[{"address": "127.0.0.1", "behaviour": "rude"}]', "fleet.json")


def test_several_servers_may_request_a_free_port() -> None:
    assert len(decode_specs(b'[{"address": "127.0.0.1", "port": 0}, {"address": "127.0.0.1", "port": 0}]', "x")) == 2


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"none\.json: cannot be read: No such file"):
        read_specs(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("text", "octets"),
    [("192.0.2.7", b"\xc0\x00\x02\x07"), ("GPS", b"GPS\0"), ("RATE", b"RATE"), ("", bytes(4)), ("12345", None)],
)
def test_reference_ids_are_encoded_as_four_octets(text: str, octets: bytes | None) -> None:
    assert reference_octets(text) == octets
