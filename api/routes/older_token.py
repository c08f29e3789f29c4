"""Give agents of the older protocol the token with which they ask for work: ``POST /api/oidc/token``."""

from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Depends
from starlette.responses import Response

from api.answers import as_json
from api.authorization import identify, require_not_deleted
from api.messages import AccessAnswer
from api.requests import Asked, read_request
from api.routes.described import BEARER, answers, body
from api.services import Services
from auth.access_tokens import access_lifetime, sign_access
from runtime.http.answers import Declined
from schema.names import InvalidName


class _Wanted(msgspec.Struct):
    expires_in: int | None = None


_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"expires_in": {"type": "integer", "description": "Seconds; one hour at most."}},
}


def older_token_router(services: Services) -> APIRouter:
    """Return the route."""
    router = APIRouter()

    @router.post(
        "/api/oidc/token",
        summary="Get a token of the older protocol.",
        response_model=None,
        responses=answers(401, 403, of=AccessAnswer),
        openapi_extra=body("application/json", _SCHEMA, required=False),
        dependencies=[BEARER],
    )
    def access_token(asked: Annotated[Asked, Depends(read_request)]) -> Response:
        now = services.now()
        host = identify(services, asked, now).host
        # Also for a monitor that is pending or paused: it learns from the answers when it is live.
        require_not_deleted(host)
        lifetime = access_lifetime(_wanted(asked.body))
        issuer = services.settings.public_url()
        try:
            token = sign_access(
                services.signing_key, host.name, services.env, issuer=issuer, now=now, lifetime=lifetime
            )
        except InvalidName as error:
            raise Declined(403, "name", str(error)) from None
        services.metrics.issued("access_token")
        return as_json(AccessAnswer(access_token=token, expires_in=int(lifetime.total_seconds())))

    return router


def _wanted(content: bytes) -> int | None:
    """Return the lifetime that the body asks for, in seconds."""
    if not content:
        return None
    try:
        return msgspec.json.decode(content, type=_Wanted).expires_in
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Declined(400, "malformed", 'The body must be JSON such as {"expires_in": 3600}.') from None
