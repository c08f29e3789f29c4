"""Limit how long a connection may stay in each phase, and what it may hold in memory.

The server library limits only the pause between two requests. A client that sends the head of a request byte by byte,
or does not read its answer, would stay for ever.
"""

import asyncio
from typing import Final, Literal

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_WITHIN: Final = 15.0
"""Maximum seconds from the beginning of a connection, or of a further request, to the end of the request's head."""

MAX_HEAD: Final = 16 * 1024
"""Maximum bytes of a request's head, and of what a client sends ahead of its next request."""

KEEP_ALIVE: Final = 5
"""Seconds for which a connection stays open without a request."""

GRACE: Final = 10.0
"""Seconds for an answer to reach the client."""

_BESIDES: Final = 50
"""Connections above the maximum that are still answered: that the server is busy."""

_Phase = Literal["head", "answer", "idle"]


def timed_connections(most: int, answer_within: float, head_within: float = HEAD_WITHIN) -> type[H11Protocol]:
    """Return the class of connections.

    Args:
        most: maximum number of connections.
        answer_within: maximum seconds for the application to answer a request.
        head_within: maximum seconds for the head of a request.
    """
    limits: dict[_Phase, float] = {
        "head": head_within,
        "answer": answer_within + GRACE,
        "idle": KEEP_ALIVE + GRACE,  # the library closes it earlier, if the client has taken the answer
    }

    class TimedConnection(H11Protocol):
        _phase: _Phase = "head"
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in its base
            super().connection_made(transport)
            if len(self.connections) > most + _BESIDES:
                transport.abort()
            else:
                self._enter("head")

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self._phase == "idle":
                self._enter("head")
            super().data_received(data)
            # The library would hold whatever arrives during a request, and goes on reading.
            if self.conn.their_state is h11.DONE and len(self.conn.trailing_data[0]) > MAX_HEAD:
                self.transport.abort()

        def handle_events(self) -> None:
            super().handle_events()
            if self._phase != "answer" and self.cycle is not None and not self.cycle.response_complete:
                self._enter("answer")

        def on_response_complete(self) -> None:
            self._enter("idle")
            super().on_response_complete()  # may go on with the next request

        def _enter(self, phase: _Phase) -> None:
            self._stop_timer()
            self._phase = phase
            self._timer = self.loop.call_later(limits[phase], self.transport.abort)

        def _stop_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return TimedConnection
