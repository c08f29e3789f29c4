"""Ask API processes for the configuration of monitors, as fast as they answer, over connections that stay open."""

import asyncio
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Final

from testbed.ports import ADDRESS

_ANSWER_WITHIN: Final = 30.0


@dataclass(slots=True)
class Asked:
    """The answers so far."""

    answered: int = 0
    failed: int = 0
    """Answers other than 200, and lost connections."""


async def ask_repeatedly(
    ports: Sequence[int], keys: Sequence[str], trusted: ssl.SSLContext, seconds: float, connections: int
) -> Asked:
    """Ask all processes with this many connections to each, for this long; return the number of answers."""
    asked, end, key = Asked(), time.monotonic() + seconds, cycle(keys)
    clients = [_client(port, next(key), trusted, end, asked) for port in ports for _ in range(connections)]
    await asyncio.gather(*clients)
    return asked


async def _client(port: int, key: str, trusted: ssl.SSLContext, end: float, asked: Asked) -> None:
    request = f"GET /monitor/api/config HTTP/1.1\r\nHost: {ADDRESS}\r\nAuthorization: Bearer {key}\r\n\r\n".encode()
    reader, writer = await asyncio.open_connection(ADDRESS, port, ssl=trusted, server_hostname=ADDRESS)
    try:
        while time.monotonic() < end:
            writer.write(request)
            async with asyncio.timeout(_ANSWER_WITHIN):
                good = await read_answer(reader)
            asked.answered += good
            asked.failed += not good
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        asked.failed += 1
    finally:
        writer.transport.abort()


async def read_answer(reader: asyncio.StreamReader) -> bool:
    """Read one answer to its end; return whether it is good."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    await reader.readexactly(length)
    return head.startswith(b"HTTP/1.1 200 ")
