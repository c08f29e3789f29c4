"""Open the templates and the style sheet of the public pages.

Names and texts come from servers, agents and people. The templates escape every value; ``shown`` also replaces what a
browser would interpret inside a text: control characters, and marks that change the direction of what follows.
"""

import hashlib
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment as Templates
from jinja2 import FileSystemLoader, StrictUndefined

from runtime.printable import printable
from schema.names import Environment
from web.attributes import public_text
from web.scoring import number
from web.verdict import offset_words, shown_score

_HTML: Final = Path(__file__).parent / "html"

STYLE: Final = (_HTML / "style.css").read_bytes()
STYLE_PATH: Final = f"/static/style-{hashlib.sha256(STYLE).hexdigest()[:12]}.css"
"""Its name changes with its content, so browsers may keep it."""


@cache  # with the compiled templates
def open_templates() -> Templates:
    """Return the templates."""
    found = Templates(
        loader=FileSystemLoader(_HTML),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {
        "utc": _utc,
        "iso": _iso,
        "shown": printable,
        "public": lambda text, ip="": printable(public_text(text, ip)),
        "number": number,
        "score": shown_score,
        "offset": offset_words,
        "share": lambda value: f"{value * 100:.{0 if value in (0, 1) else 1}f} %",
    }
    return found


def render(env: Environment, name: str, **values: Any) -> bytes:
    """Return a page."""
    common = {"env": env, "style": STYLE_PATH}
    return open_templates().get_template(name).render({**common, **values}).encode("utf-8", "replace")


def error_page(env: Environment, status: int, title: str, words: str) -> bytes:
    """Return the page for an error. It reads nothing from the ledger, which may be what is unavailable."""
    return render(env, "error.html", status=status, title=title, words=words)


def _utc(moment: datetime) -> str:
    """Return a time of the ledger, or an aware one, in words."""
    aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return aware.strftime("%Y-%m-%d %H:%M UTC")


def _iso(moment: datetime) -> str:
    aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return aware.isoformat(timespec="seconds")
