"""Test where a form may come from, and where a login may lead to."""

from urllib.parse import urljoin, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.pages.request_checks import is_own_form, network_of_peer, path_after_login
from testbed.random_inputs import examples

OURS = "https://pool.example"


@pytest.mark.parametrize(
    ("headers", "ours"),
    [
        ({"sec-fetch-site": "same-origin", "origin": "null"}, True),  # what browsers send under no-referrer
        ({"sec-fetch-site": "same-origin"}, True),
        ({"origin": "https://pool.example"}, True),  # a browser without Sec-Fetch-Site
        ({"origin": "HTTPS://POOL.EXAMPLE"}, True),
        ({}, False),
        ({"origin": "null"}, False),
        ({"origin": ""}, False),
        ({"origin": "https://evil.example"}, False),
        ({"origin": "http://pool.example"}, False),
        ({"origin": "https://pool.example:8443"}, False),
        ({"origin": "https://pool.example.evil.example"}, False),
        ({"sec-fetch-site": "same-site"}, False),
        ({"sec-fetch-site": "cross-site", "origin": "https://pool.example"}, False),
        ({"sec-fetch-site": "none"}, False),
        ({"sec-fetch-site": ""}, False),
    ],
)
def test_form_comes_from_our_origin(headers: dict[str, str], ours: bool) -> None:
    assert is_own_form(headers, OURS) is ours


@pytest.mark.parametrize(
    "path",
    [
        "/manage",
        "/manage/monitors/confirm/0123456789abcdef0123456789abcdef",
        "/manage/monitors/confirm/0123456789abcdef0123456789abcdef/status",
        "/manage/monitors/nlams1-4xhq2c9.prod.mon.example",
    ],
)
def test_login_leads_to_the_page_that_was_wanted(path: str) -> None:
    assert path_after_login(path) == path


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "/",
            "//evil.example",
            "///evil.example",
            "https://evil.example",
            "javascript:alert(1)",
            "\\\\evil.example",
        ),
        *("/\\evil.example", "/manage//evil.example", "/manage/../login", "/manage/..", "/manage\n", "/manage?x=1"),
        *("/manage#x", "/managex", "/login", "/manage/%2e%2e/login", "/manage/ä", "/manage/\u0661", " /manage"),
        *("/manage/monitors/", "http:/manage", "/manage/a/b/c/d/e", "@evil.example/manage"),
    ],
)
def test_login_leads_nowhere_else(text: str) -> None:
    assert path_after_login(text) == "/manage"


@given(st.text(alphabet="/\\.:@?#%mange evil\n\t\r\0x", max_size=40).map(lambda text: f"/manage{text}") | st.text())
@examples(500)
def test_login_never_leads_to_another_site(text: str) -> None:
    found = path_after_login(text)
    target = urlsplit(urljoin(f"{OURS}/login", found))
    assert (target.scheme, target.netloc) == ("https", "pool.example")
    assert target.path == found and found.startswith("/manage") and "//" not in found and "/." not in found


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("8.8.4.4", "8.8.4.4"),
        ("::ffff:8.8.4.4", "8.8.4.4"),
        ("2001:4860:4860:1:2:3:4:5", "2001:4860:4860:1::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        (None, "unknown"),
        ("testclient", "unknown"),
    ],
)
def test_logins_are_counted_by_network(host: str | None, network: str) -> None:
    assert network_of_peer(host) == network
