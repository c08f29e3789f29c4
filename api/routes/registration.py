"""Register hosts: ``POST /monitor/api/registration``, which ours and older agents repeat until they have a key."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends
from starlette.responses import Response

from api.answers import as_json
from api.authorization import monitors_of_key
from api.messages import RegistrationAnswer
from api.requests import Asked, read_request
from api.routes.described import OPTIONAL_KEY, answers, body, header
from api.services import Services
from auth.registration.model import Accepted, Answer, Completed, Pending, Refusal, Refused, Request
from auth.registration.secret import parse_registration_id
from runtime.http.answers import Declined
from schema.names import ENVIRONMENTS

_STATUS: Final[dict[Refusal, int]] = {
    Refusal.MALFORMED: 400,
    Refusal.ADDRESS: 403,
    Refusal.TOO_MANY: 429,
    Refusal.ACCOUNT: 403,
    Refusal.OTHER_ADDRESS: 409,
    Refusal.ENDED: 410,
    Refusal.REJECTED: 403,
}
"""HTTP status of each refusal; below 500, agents of the older protocol look at the content type only."""

_LONGEST_FIELD: Final = 1024

_FORM: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "hostname": {"type": "string", "description": "Name of the host, for people."},
        "a": {"type": "string", "description": "Token of the account to preselect."},
        "env": {"type": "string", "description": "Environment of the agent; older agents do not send it."},
    },
    "additionalProperties": False,
}


def registration_router(services: Services) -> APIRouter:
    """Return the route."""
    router = APIRouter()
    described = body("application/x-www-form-urlencoded", _FORM, required=False)
    described["security"] = OPTIONAL_KEY
    described["parameters"] = [
        header(
            "Registration-ID",
            "A ULID that the host has made for this registration. Secret.",
            required=True,
            pattern="^[0-7][0-9A-HJKMNP-TV-Z]{25}$",
        )
    ]

    @router.post(
        "/monitor/api/registration",
        summary="Ask to become a monitor, and for the API key.",
        response_model=None,
        responses=answers(403, 409, 410, 415, 429, of=RegistrationAnswer),
        openapi_extra=described,
    )
    def register(asked: Annotated[Asked, Depends(read_request)]) -> Response:
        request = _request(services, asked)
        found = services.registrations.poll(request, services.now())
        return _answer(services, found)

    return router


def _request(services: Services, asked: Asked) -> Request:
    registration = parse_registration_id(asked.header("registration-id") or "")
    if registration is None:
        raise Declined(400, "malformed", "The header Registration-ID must be one ULID.")
    if asked.behind_silent_proxy:
        raise Declined(
            503,
            "silent_proxy",
            "The proxy in front of this server does not say who asks; its operators must set it up.",
        )
    form = asked.form()
    _check_environment(services, form.get("env"))
    return Request(
        registration=registration,
        peer=asked.peer,
        hostname=form.get("hostname", "")[:_LONGEST_FIELD],
        account_token=form.get("a", "")[:_LONGEST_FIELD],
        user_agent=(asked.header("user-agent") or "")[:_LONGEST_FIELD],
        monitor_ids=monitors_of_key(services, asked, services.now()),
    )


def _check_environment(services: Services, env: str | None) -> None:
    """Refuse an agent of another environment, which could not use what it is given here."""
    if env is None or env == services.env:
        return
    services.metrics.registration("refused")
    theirs = env if env in ENVIRONMENTS else "another environment"
    raise Declined(
        403,
        "registration_environment",
        f"This is the API of {services.env}, and the agent is one of {theirs}: "
        "choose the environment with --env, and its API with MONITOR_API.",
    )


def _answer(services: Services, found: Answer) -> Response:
    url = services.settings.public_url()
    match found:
        case Pending():
            services.metrics.registration("pending")
            return as_json(RegistrationAnswer(url=url + found.path, status="pending"))
        case Accepted():
            services.metrics.registration("accepted")
            return as_json(RegistrationAnswer(url=url + found.path, status="accepted", key=found.key.clear))
        case Completed():
            services.metrics.registration("completed")
            return as_json(RegistrationAnswer(url=url + found.path, status="completed"))
        case Refused():
            services.metrics.registration("refused")
            raise Declined(_STATUS[found.kind], f"registration_{found.kind}", found.sentence)
