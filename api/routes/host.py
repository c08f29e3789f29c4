"""Serve registered hosts: configuration, token for the broker, and certificate.

All of them with ``Authorization: Bearer <API key>``. 401 only means that the key is not valid; everything else that
concerns the monitor is 403, in words.
"""

import hashlib
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends
from starlette.responses import Response

from api.answers import as_json
from api.authorization import Identified, identify, require_may_connect, require_not_deleted
from api.broker_of_agents import BrokerOfAgents
from api.hosts import Host
from api.messages import CertificateAnswer, ConfigAnswer, ProtocolAnswer, TlsAnswer, TokenAnswer
from api.requests import Asked, read_request
from api.routes.described import BEARER, answers, body, header
from api.services import Services
from auth.ca.authority import AuthorityUnavailable
from auth.ca.request import InvalidRequest, parse_request
from auth.ca.settings import monitor_lifetime
from auth.certificates import NoSuchMonitor, TooManyCertificates, issue_to_monitor
from auth.host_certificates import Holder, key_and_certificate
from auth.tokens import Role, permissions, sign
from runtime.http.answers import NO_STORE, Declined
from schema.names import InvalidName, IpVersion, short_name

_PEM_REQUEST: Final[dict[str, Any]] = {"type": "string", "description": "A signing request (PKCS #10), PEM."}
_CERTIFICATE_WANTED: Final = "request_certificate"

_SEEN_AS: Final = "Seen-As"
"""Header of the configuration's answer: the host's address, by which it recognises that it has moved."""


def host_router(services: Services, broker: BrokerOfAgents) -> APIRouter:
    """Return the routes."""
    router = APIRouter(dependencies=[BEARER])
    _add_config(router, services, broker)
    _add_token(router, services)
    _add_certificate(router, services)
    return router


# ---- configuration ---------------------------------------------------------------------------------------------------


def _add_config(router: APIRouter, services: Services, broker: BrokerOfAgents) -> None:
    wanted = {
        "name": _CERTIFICATE_WANTED,
        "in": "query",
        "required": False,
        "description": "true: send key and certificate, too.",
        "schema": {"type": "string"},
    }
    unchanged = {"description": "Unchanged since the answer with the tag in If-None-Match."}

    @router.get(
        "/monitor/api/config",
        summary="Get the configuration of the host's monitor.",
        response_model=None,
        responses=answers(401, 403, of=ConfigAnswer) | {304: unchanged},
        openapi_extra={"parameters": [wanted, header("If-None-Match", "ETag of an earlier answer.")]},
    )
    def config(asked: Annotated[Asked, Depends(read_request)]) -> Response:
        now = services.now()
        who = identify(services, asked, now)
        made = config_of(who.host, broker)
        if asked.query.get(_CERTIFICATE_WANTED) == "true":
            return as_json(made.model_copy(update={"tls": _tls(services, who, now)}))
        answer = tagged(made, asked.header("if-none-match"))
        if not asked.behind_silent_proxy:
            answer.headers[_SEEN_AS] = asked.peer
        return answer


def config_of(host: Host, broker: BrokerOfAgents) -> ConfigAnswer:
    """Return the configuration of a host, without key and certificate."""

    def protocol(ipv: IpVersion) -> ProtocolAnswer:
        found = host.protocols.get(ipv)
        return ProtocolAnswer() if found is None else ProtocolAnswer(ip=found.ip, status=found.status)

    return ConfigAnswer(
        name=short_name(host.name),
        tls_name=host.name,
        ipv4=protocol("v4"),
        ipv6=protocol("v6"),
        broker=broker.answer(),
    )


def tagged(made: ConfigAnswer, known: str | None) -> Response:
    """Return the answer with its ETag, or 304 if ``known``, the header ``If-None-Match``, has that tag."""
    answer = as_json(made)
    tag = f'"{hashlib.sha256(bytes(answer.body)).hexdigest()[:32]}"'
    # Weak comparison, as for GET (RFC 9110, 13.1.2).
    if known is not None and tag in {one.strip().removeprefix("W/") for one in known.split(",")}:
        return Response(status_code=304, headers={**NO_STORE, "ETag": tag})
    answer.headers["ETag"] = tag
    return answer


def _tls(services: Services, who: Identified, now: datetime) -> TlsAnswer | None:
    """Return key and certificate; ``None`` if there is none now, since the agent asks again, and needs the rest."""
    if who.host.is_deleted:
        return None
    holder, lifetime = Holder(who.key_id, who.key), monitor_lifetime(services.settings)
    try:
        made = key_and_certificate(
            services.engine, services.authority, holder, who.host.name, services.peppers, now, lifetime
        )
    except (AuthorityUnavailable, NoSuchMonitor, TooManyCertificates, InvalidName):
        services.metrics.refused("key_and_certificate")
        return None
    if made.is_new:
        services.metrics.issued("key_and_certificate")
    return TlsAnswer(cert=made.chain, key=made.key)


# ---- token -----------------------------------------------------------------------------------------------------------


def _add_token(router: APIRouter, services: Services) -> None:
    @router.post(
        "/monitor/api/token",
        summary="Get a token for the broker.",
        response_model=None,
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


# ---- certificate -----------------------------------------------------------------------------------------------------


def _add_certificate(router: APIRouter, services: Services) -> None:
    @router.post(
        "/monitor/api/certificate",
        summary="Get a certificate for a key of the host.",
        response_model=None,
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
