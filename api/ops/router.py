"""Serve operators' programs below ``/ops``: every route needs an operator's key."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Request, params
from pydantic import BaseModel
from starlette.responses import Response

from api.ops.check import MOST_MONITORS, MOST_SAMPLES, USUAL_MONITORS, Kind, Wanted
from api.ops.described import (
    CHECK_PARAMETERS,
    KEPT_ROUTES,
    KEPT_ROUTES_PARAMETERS,
    LINES,
    METRICS_TEXT,
    METRICS_TYPE,
    MOST_ROUTES,
    NAME_PARAMETER,
    ROUTE_LINES,
    TRACEROUTE_PARAMETERS,
    USUAL_ROUTES,
    answers,
)
from api.ops.desk import Desk, declining
from api.ops.messages import (
    METRICS_PATH,
    OnlineMonitor,
    TargetGroup,
    as_json_list,
    kept_routes_json,
    online_monitor,
    target_group,
)
from api.ops.operators import OPERATOR_KEY, Operator, operator_required
from api.ops.stream import LineStream, while_present
from api.ops.target import parse_target
from runtime.http.answers import NO_STORE, Declined

CHECK_PATH: Final = "/ops/check/ntp/{ip}"
TRACEROUTE_PATH: Final = "/ops/check/traceroute/{ip}"
_LONGEST_NAME: Final = 253


def ops_router(desk: Desk) -> APIRouter:
    """Return the routes."""
    router = APIRouter(dependencies=[OPERATOR_KEY])
    required = operator_required(desk.services)
    _add_lists(router, desk, [Depends(required)])

    @router.get(
        METRICS_PATH,
        summary="Get the metrics of an agent, asked through the broker.",
        response_class=Response,
        responses=answers(404, 502, 504, good=METRICS_TEXT),
        openapi_extra=NAME_PARAMETER,
        dependencies=[Depends(required)],
    )
    async def metrics(request: Request) -> Response:
        name = _only(_given(request, "name"), "name")
        if name is None:
            raise Declined(400, "malformed", "Say which agent: ?name=NAME.")
        found = await while_present(request.receive, desk.metrics(name))
        return Response(found, 200, NO_STORE, METRICS_TYPE)

    @router.post(
        CHECK_PATH,
        summary="Measure an address now, by several monitors.",
        response_class=Response,
        responses=answers(404, 409, good=LINES),
        openapi_extra=CHECK_PARAMETERS,
    )
    async def check(request: Request, operator: Annotated[Operator, Depends(required)]) -> Response:
        return _begin(desk, request, operator, "ntp")

    _add_traceroutes(router, desk, required)
    return router


def _add_traceroutes(router: APIRouter, desk: Desk, required: Callable[..., Operator]) -> None:
    @router.post(
        TRACEROUTE_PATH,
        summary="Trace the routes of several monitors to an address now.",
        response_class=Response,
        responses=answers(404, 409, good=ROUTE_LINES),
        openapi_extra=TRACEROUTE_PARAMETERS,
    )
    async def traceroute(request: Request, operator: Annotated[Operator, Depends(required)]) -> Response:
        return _begin(desk, request, operator, "traceroute")

    @router.get(
        TRACEROUTE_PATH,
        summary="List the latest routes to a server that were traced, newest first.",
        response_class=Response,
        responses=answers(404, good=KEPT_ROUTES),
        openapi_extra=KEPT_ROUTES_PARAMETERS,
        dependencies=[Depends(required)],
    )
    def kept(request: Request) -> Response:
        most = _number(_given(request, "limit"), "limit", MOST_ROUTES, USUAL_ROUTES)
        with declining():
            target = parse_target(desk.services.env, request.path_params["ip"])
        return Response(kept_routes_json(desk.kept_routes(target, most)), 200, NO_STORE, "application/json")


def _begin(desk: Desk, request: Request, operator: Operator, kind: Kind) -> Response:
    """Return the answer to a request for a check, which begins when it is sent.

    Raises:
        Declined: the request is invalid, or the operator has begun too many.
    """
    with declining():
        wanted = _wanted(desk, request, kind)
    desk.begin_check(operator)
    return LineStream(partial(desk.check, operator, wanted))


def _add_lists(router: APIRouter, desk: Desk, needs_operator: Sequence[params.Depends]) -> None:
    @router.get(
        "/ops/monitors/online",
        summary="List the monitors that are connected.",
        response_model=None,
        responses=answers(good={"model": list[OnlineMonitor]}),
        dependencies=needs_operator,
    )
    def online(request: Request) -> Response:
        _given(request)
        return _json_list([online_monitor(agent) for agent in desk.connected()])

    @router.get(
        "/ops/monitors/discovery",
        summary="List the agents that answer with metrics, for Prometheus' HTTP service discovery.",
        response_model=None,
        responses=answers(good={"model": list[TargetGroup]}),
        dependencies=needs_operator,
    )
    def discovery(request: Request) -> Response:
        _given(request)
        url = desk.services.settings.public_url()
        return _json_list([target_group(agent, url) for agent in desk.connected() if agent.answers])


def _json_list(models: Sequence[BaseModel]) -> Response:
    return Response(as_json_list(models), 200, NO_STORE, "application/json")


def _wanted(desk: Desk, request: Request, kind: Kind) -> Wanted:
    """Return the check that a request asks for.

    Raises:
        WrongTarget: the address may not be measured.
        Declined: a parameter is invalid.
    """
    given = _given(request, "from", "monitors", *(("samples",) if kind == "ntp" else ()))
    target = parse_target(desk.services.env, request.path_params["ip"])
    names = tuple(value for name, value in given if name == "from")
    if len(names) > MOST_MONITORS:
        raise Declined(400, "malformed", f"from: at most {MOST_MONITORS} monitors measure at once.")
    usual_samples = MOST_SAMPLES if kind == "ntp" else 1
    return Wanted(
        target,
        names,
        _number(given, "monitors", MOST_MONITORS, USUAL_MONITORS[kind]),
        _number(given, "samples", MOST_SAMPLES, usual_samples),
        kind,
    )


def _given(request: Request, *known: str) -> list[tuple[str, str]]:
    """Return the parameters of the query.

    Raises:
        Declined: one is unknown, which may be misspelt, or empty, or too long.
    """
    found = list(request.query_params.multi_items())
    for name, value in found:
        if name not in known:
            allowed = f"must be one of {', '.join(known)}" if known else "there are none here"
            raise Declined(400, "malformed", f"parameter {name[:_LONGEST_NAME]!r}: {allowed}.")
        if not 1 <= len(value) <= _LONGEST_NAME:
            raise Declined(400, "malformed", f"{name}: must have 1 to {_LONGEST_NAME} characters.")
    return found


def _only(given: Sequence[tuple[str, str]], wanted: str) -> str | None:
    """Return a parameter that may be given once; ``None`` if it is not given."""
    values = [value for name, value in given if name == wanted]
    if len(values) > 1:
        raise Declined(400, "malformed", f"{wanted}: was given more than once.")
    return values[0] if values else None


def _number(given: Sequence[tuple[str, str]], name: str, most: int, usual: int) -> int:
    text = _only(given, name)
    if text is None:
        return usual
    if not (text.isascii() and text.isdigit() and len(text) < 4 and 1 <= int(text) <= most):
        raise Declined(400, "malformed", f"{name}: must be 1 to {most}.")
    return int(text)
