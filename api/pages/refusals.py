"""Show a person a page where a machine is answered in plain text: when a request was refused before any page saw it.

The edge refuses what is too large, too slow or too much, and the framework what no route accepts.
"""

from http import HTTPStatus
from typing import Final

from starlette.responses import Response

from api.pages.errors import UNAVAILABLE, WENT_WRONG, PageError, no_such_page
from api.pages.templates import HEADERS, error_page, open_templates
from runtime.http.asgi import Refusals
from schema.names import Environment

_PARTS: Final = frozenset({"login", "logout", "manage"})
_TITLES: Final = {408: "This took too long", 500: WENT_WRONG, 503: UNAVAILABLE}


def refusals(env: Environment) -> Refusals:
    """Return the answers to refused requests: pages at the addresses of people, else what is given."""
    templates = open_templates()

    def answer(path: str, given: Response) -> Response:
        if path.removeprefix("/").partition("/")[0] not in _PARTS:
            return given
        page = error_page(templates, env, _error(given))
        for name, value in given.headers.items():
            if name not in ("content-type", "content-length"):
                page.headers[name] = value
        page.headers.update(HEADERS)
        return page

    return answer


def _error(given: Response) -> PageError:
    match given.status_code:
        case 404 | 405:
            return no_such_page(given.status_code)
        case 413:
            return PageError(413, "This form is too large", "Nothing was changed. Go back, and write less.")
    title = _TITLES.get(given.status_code, HTTPStatus(given.status_code).phrase)
    return PageError(given.status_code, title, bytes(given.body).decode().strip())
