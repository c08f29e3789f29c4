"""Serve what everybody may read: what this is, the roots to trust, and the list of revoked certificates."""

from fastapi import APIRouter
from starlette.responses import PlainTextResponse, Response

from api.published import Published
from api.routes.described import answers
from runtime.http.answers import Declined, text
from schema.names import Environment


class PemResponse(Response):
    """An answer in PEM."""

    media_type = "application/x-pem-file"


def public_router(env: Environment, published: Published) -> APIRouter:
    """Return the routes."""
    router = APIRouter()

    @router.get("/", summary="Say what this is.", response_class=PlainTextResponse, responses=answers())
    async def root() -> Response:
        return text(200, f"NTP Pool Monitor, {env}: the API of monitoring agents. People open /manage.")

    @router.get(
        "/monitor/api/ca.pem",
        summary="Get the certificates that brokers and agents trust.",
        response_class=PemResponse,
        responses=answers(404),
    )
    async def bundle() -> Response:
        return _pem(published, published.bundle)

    @router.get(
        "/monitor/api/crl.pem",
        summary="Get the list of revoked certificates.",
        response_class=PemResponse,
        responses=answers(404),
    )
    async def revocations() -> Response:
        return _pem(published, published.revocations)

    return router


def _pem(published: Published, content: str | None) -> Response:
    if not published.looked:
        raise Declined(503, "authority", "The certificate authority has not been reached yet; try again later.")
    if content is None:
        raise Declined(404, "no_authority", "There is no certificate authority here.")
    return PemResponse(content, 200, {"Cache-Control": "max-age=60"})
