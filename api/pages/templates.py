"""Open the templates, the style sheet, and the headers that all pages have. No page has a script."""

import hashlib
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

from fastapi.responses import HTMLResponse
from jinja2 import Environment as Templates
from jinja2 import FileSystemLoader, StrictUndefined

from api.pages.errors import PageError
from schema.names import Environment

_HERE: Final = Path(__file__).parent

STYLE: Final = (_HERE / "html" / "style.css").read_text(encoding="utf-8")
STYLE_PATH: Final = f"/manage/style-{hashlib.sha256(STYLE.encode()).hexdigest()[:12]}.css"
"""Its name changes with its content, so browsers may keep it."""

HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
}
"""Headers of all pages: nothing outside is loaded, and no address, which may be a secret, is sent to another site."""


@cache  # with the compiled templates
def open_templates() -> Templates:
    """Return the templates, which escape all values."""
    found = Templates(
        loader=FileSystemLoader(_HERE / "html"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["utc"] = _utc
    return found


def render(templates: Templates, env: Environment, name: str, **values: Any) -> str:
    """Return the text of a page."""
    common = {"env": env, "style": STYLE_PATH, "person": None, "notice": "", "form_token": ""}
    return templates.get_template(name).render({**common, **values})


def error_page(templates: Templates, env: Environment, error: PageError) -> HTMLResponse:
    """Return the page for an error. It reads nothing from the ledger, which may be what is unavailable."""
    text = render(templates, env, "error.html", title=error.title, sentences=error.sentences, again=error.again)
    return HTMLResponse(text, error.status, error.headers)


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
