"""How a connection to the broker is made and ended."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from runtime.broker_types import Incoming
from runtime.mqtt_client import Client, MqttError
from runtime.mqtt_stream import PacketStream, in_words

_REACH: Final = 5.0
"""Seconds for reaching one of the broker's addresses and shaking hands with who is there."""


@asynccontextmanager
async def connection(
    host: str,
    port: int,
    tls: ssl.SSLContext | None,
    hello: bytes,
    *,
    deliver: Callable[[Incoming], None],
    keepalive: int,
    max_inflight: int,
) -> AsyncIterator[Client]:
    """A connection that the broker has welcomed, for as long as the ``with`` block lasts; then it is ended in order.

    Args:
        hello: the CONNECT packet.
        deliver: is given each message. It must not raise.

    Raises:
        MqttError: the broker cannot be reached, or does not welcome us.
    """
    client = Client(deliver, keepalive, max_inflight)
    await _reach(host, port, tls, client.stream)
    try:
        await client.enter(hello)
        try:
            yield client
        finally:
            await client.leave()
    finally:
        client.stream.abort()


async def _reach(host: str, port: int, tls: ssl.SSLContext | None, stream: PacketStream) -> None:
    """Connects with the first of the broker's addresses where somebody answers."""
    loop = asyncio.get_running_loop()
    failure = f"{host} has no address"
    try:
        addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # UnicodeError: no name of a host can be like this
        raise MqttError(f"{host}: {error}") from error
    for *_, address in addresses:
        try:
            async with asyncio.timeout(_REACH):
                await loop.create_connection(
                    lambda: stream, str(address[0]), port, ssl=tls, server_hostname=host if tls else None
                )
                return
        except TimeoutError:
            failure = "the attempt to connect timed out"
        except OSError as error:
            failure = in_words(error)
    raise MqttError(failure)
