"""Record a round of the scorer in the traces of the results that made its servers due."""

from dataclasses import replace

from opentelemetry.trace import Link, Tracer

from runtime.tracing import child_of, context_of, parentless
from scorer.rounds import Scored


def record_round(tracer: Tracer, scored: Scored, began: int) -> Scored:
    """Record a committed round, and its part in each trace; return it with the contexts for the events.

    The round scores many servers, so it is a trace of its own, which is linked with those of the results.

    Args:
        began: Unix time in nanoseconds.
    """
    attributes = {"ntppool.servers": scored.claimed}
    of_round = tracer.start_span("score round", parentless(), attributes=attributes, start_time=began)
    scores = {score.server_id: score.score for score in scored.scores}
    traces: dict[int, str] = {}
    for server_id, context in scored.traces.items():
        span = tracer.start_span(
            "score server",
            context_of(context),
            attributes={"ntppool.server.id": server_id},
            links=[Link(of_round.get_span_context())],
            start_time=began,
        )
        if server_id in scores:
            span.set_attribute("ntppool.score", scores[server_id])
        of_round.add_link(span.get_span_context())
        span.end()
        traces[server_id] = child_of(span)
    of_round.end()
    return replace(scored, traces=traces)
