"""Test the colours of the pages: everybody can read every text, on light and dark screens."""

import re

import pytest

from api.pages.templates import STYLE

TEXTS = {
    "text": ("back", "panel", "warn-back"),
    "soft": ("back", "panel"),
    "link": ("back", "panel"),
    "danger": ("back",),
    "button-text": ("button",),
}
EDGES = {"line": ("back",), "button": ("back",), "link": ("back",), "danger": ("back", "panel"), "good": ("panel",)}
"""Borders of fields, buttons, messages and of what has the focus."""

SCHEMES = [
    dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", part)) for part in re.findall(r":root \{(.*?)\}", STYLE, re.S)
]


def luminance(colour: str) -> float:
    """Return the relative luminance of WCAG 2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", range(2), ids=["light", "dark"])
def test_colours_have_the_contrast_that_wcag_demands(scheme: int) -> None:
    colours = SCHEMES[scheme]
    for pairs, least in ((TEXTS, 4.5), (EDGES, 3.0)):
        found = {(a, b): contrast(colours[a], colours[b]) for a, others in pairs.items() for b in others}
        assert {pair: ratio for pair, ratio in found.items() if ratio < least} == {}


def test_every_colour_is_tested() -> None:
    used = {*TEXTS, *EDGES, *(b for others in TEXTS.values() for b in others)}
    assert set(SCHEMES[0]) == set(SCHEMES[1]) == used | {"warn-line"}
    assert not re.search(r"(?:#[0-9a-f]{3,8}|rgb|hsl)[^;]*;", re.sub(r"--[a-z-]+: [^;]*;", "", STYLE)), "only these"
