"""Test how requests are read: forms, headers and API keys, whatever a client sends."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from api.requests import Asked
from runtime.http.answers import Declined
from testbed.random_inputs import examples

FORM = "application/x-www-form-urlencoded"


def asked(body: bytes = b"", *headers: tuple[str, str]) -> Asked:
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    return Asked("8.8.4.4", Headers(raw=raw), body, {})


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ([("Authorization", "Bearer abc")], "abc"),
        ([("authorization", "bearer  abc ")], "abc"),
        ([("Authorization", "Basic abc")], None),
        ([("Authorization", "abc")], None),
        ([("Authorization", "Bearer a"), ("Authorization", "Bearer a")], None),
        ([], None),
    ],
)
def test_a_bearer_token_is_read_from_exactly_one_header(headers: list[tuple[str, str]], found: str | None) -> None:
    assert asked(b"", *headers).bearer() == found


def test_no_part_that_may_be_secret_is_in_the_repr() -> None:
    shown = repr(Asked("8.8.4.4", Headers({"authorization": "Bearer ntpm_key"}), b"a=body", {"code": "query"}))
    assert "8.8.4.4" in shown and not [one for one in ("ntpm_key", "body", "query") if one in shown]


def test_forms_are_read_as_agents_send_them() -> None:
    body = b"a=acc-xyz&hostname=mon%2Eexample.net&other="
    assert asked(body, ("Content-Type", f"{FORM}; charset=utf-8")).form() == {
        "a": "acc-xyz",
        "hostname": "mon.example.net",
        "other": "",
    }
    assert asked().form() == {}, "the older agents send no type without a body"


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"a=1", "application/json", 415),
        (b"a=1", "multipart/form-data; boundary=x", 415),
        (b"a=1&a=2", FORM, 400),
        (b"a=\xff", FORM, 400),
        (b"a=%ff", FORM, 400),
        (b"&".join(b"f%d=1" % number for number in range(50)), FORM, 400),
    ],
)
def test_other_bodies_are_declined_in_words(body: bytes, kind: str, status: int) -> None:
    with pytest.raises(Declined) as declined:
        asked(body, ("Content-Type", kind)).form()
    assert declined.value.status == status and declined.value.words.endswith(".")


@examples(300)
@given(body=st.binary(max_size=300), kind=st.sampled_from([FORM, "text/plain", "x"]))
def test_no_body_causes_another_error(body: bytes, kind: str) -> None:
    try:
        found: Any = asked(body, ("Content-Type", kind)).form()
    except Declined:
        return
    assert all(isinstance(part, str) for pair in found.items() for part in pair)
