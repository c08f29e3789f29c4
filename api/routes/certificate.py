"""Give a registered host a certificate for a key that it has made: ``POST /monitor/api/certificate``."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends
from starlette.responses import Response

from api.answers import as_json
from api.authorization import identify, require_not_deleted
from api.messages import CertificateAnswer
from api.requests import Asked, read_request
from api.routes.described import BEARER, answers, body
from api.services import Services
from auth.ca.request import InvalidRequest, parse_request
from auth.ca.settings import monitor_lifetime
from auth.certificates import NoSuchMonitor, issue_to_monitor
from runtime.http.answers import Declined
from schema.names import InvalidName

_PEM_REQUEST: Final[dict[str, Any]] = {"type": "string", "description": "A signing request (PKCS #10), PEM."}


def certificate_router(services: Services) -> APIRouter:
    """Return the route."""
    router = APIRouter()

    @router.post(
        "/monitor/api/certificate",
        summary="Get a certificate for a key of the host.",
        response_model=None,
        dependencies=[BEARER],
        responses=answers(401, 403, 404, 429, of=CertificateAnswer),
        openapi_extra=body("application/x-pem-file", _PEM_REQUEST, required=True),
    )
    def certificate(asked: Annotated[Asked, Depends(read_request)]) -> Response:
        now = services.now()
        host = identify(services, asked, now).host
        require_not_deleted(host)
        try:
            request = parse_request(asked.body.decode("ascii"))
            made = issue_to_monitor(
                services.engine, services.authority, request, host.name, now, monitor_lifetime(services.settings)
            )
        except UnicodeDecodeError:
            raise Declined(400, "malformed", "signing request: must be PEM") from None
        except InvalidRequest as error:
            raise Declined(400, "malformed", str(error)) from None
        except (NoSuchMonitor, InvalidName) as error:
            raise Declined(403, "name", str(error)) from None
        services.metrics.issued("certificate")
        return as_json(CertificateAnswer(certificate=made.chain))

    return router
