"""Send a registered host the token with which its agent logs in at the broker: ``POST /monitor/api/token``."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from api.answers import as_json
from api.authorization import identify, require_may_connect
from api.messages import TokenAnswer
from api.requests import Asked, read_request
from api.routes.described import BEARER, answers, body
from api.services import Services
from auth.tokens import Role, permissions, sign
from runtime.http.answers import Declined
from schema.names import InvalidName


def token_router(services: Services) -> APIRouter:
    """Return the route."""
    router = APIRouter()

    @router.post(
        "/monitor/api/token",
        summary="Get a token for the broker.",
        response_model=None,
        dependencies=[BEARER],
        responses=answers(401, 403, of=TokenAnswer),
        openapi_extra=body("application/json", {"type": "object"}, required=False),
    )
    def token(asked: Annotated[Asked, Depends(read_request)]) -> Response:
        now = services.now()
        host = identify(services, asked, now).host
        require_may_connect(host)
        answer = token_for(services, host.name, now)
        services.metrics.issued("token")
        return as_json(answer)

    return router


def token_for(services: Services, name: str, now: datetime) -> TokenAnswer:
    """Return a token with its end.

    Raises:
        Declined: the monitor belongs to another environment.
    """
    lifetime = permissions(Role.MONITOR, name, services.env).lifetime
    try:
        made = sign(services.signing_key, Role.MONITOR, name, services.env, now=now)
    except InvalidName as error:
        raise Declined(403, "name", str(error)) from None
    return TokenAnswer(token=made, expires_on=datetime.fromtimestamp(int(now.timestamp()), UTC) + lifetime)
