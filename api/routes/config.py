"""Give a registered host its configuration: ``GET /monitor/api/config``.

Like the other requests of hosts, with ``Authorization: Bearer <API key>``. 401 only means that the key is not valid;
everything else that concerns the monitor is 403, in words.
"""

import hashlib
from datetime import datetime
from typing import Annotated, Final

from fastapi import APIRouter, Depends
from starlette.responses import Response

from api.answers import as_json
from api.authorization import Identified, identify
from api.broker_of_agents import BrokerOfAgents
from api.hosts import Host
from api.messages import ConfigAnswer, ProtocolAnswer, TlsAnswer
from api.requests import Asked, read_request
from api.routes.described import BEARER, answers, header
from api.services import Services
from auth.ca.authority import AuthorityUnavailable
from auth.ca.settings import monitor_lifetime
from auth.certificates import NoSuchMonitor, TooManyCertificates
from auth.host_certificates import Holder, key_and_certificate
from runtime.http.answers import NO_STORE
from schema.names import InvalidName, IpVersion, short_name

_CERTIFICATE_WANTED: Final = "request_certificate"

_SEEN_AS: Final = "Seen-As"
"""Header of the configuration's answer: the host's address, by which it recognises that it has moved."""


def config_router(services: Services, broker: BrokerOfAgents) -> APIRouter:
    """Return the route."""
    router = APIRouter()
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
        dependencies=[BEARER],
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

    return router


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
