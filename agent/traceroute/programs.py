"""Know the programs called traceroute: how each is recognised, and its arguments for each method. Pure.

All print addresses, not names, and try 30 hops. Those that send one packet after the other send one per hop and wait a
second or two, since most of the time is spent on hops that do not answer.
"""

from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from schema.messages import MAX_HOPS
from schema.names import IpVersion

Method = Literal["udp", "icmp", "tcp"]

_HOPS: Final = str(MAX_HOPS)


class Kind(msgspec.Struct, frozen=True):
    """A program. Its arguments are those of the method, the source and the address, after the common ones."""

    sign: str
    """Text that its answer to ``--version`` contains."""
    common: tuple[str, ...]
    methods: Mapping[Method, tuple[str, ...]]
    source: str | None = None
    """The option for the address to send from."""
    protocols: tuple[IpVersion, ...] = ("v4", "v6")
    other_for_v6: str | None = None
    """Name of the program for IPv6, if it is another one."""


_ONE_BY_ONE: Final = ("-n", "-q", "1", "-m", _HOPS, "-w")

KINDS: Final = (
    # Linux distributions: 16 packets at once; UDP, and usually ICMP, need no rights. With 20 ms between two packets, an
    # error that answers one by ICMP does not fail the next.
    Kind(
        "Modern traceroute",
        ("-n", "-q", "2", "-m", _HOPS, "-w", "1.5", "-z", "20"),
        {"udp": ("-U", "-p", "123"), "icmp": ("-I",), "tcp": ("-T", "-p", "123")},
        source="-s",
    ),
    # It needs root's rights, and prints no names unless told to. Its UDP port grows by one with each packet.
    Kind(
        "GNU inetutils",
        ("--tries=1", "--wait=1", f"--max-hop={_HOPS}"),
        {"udp": ("--type=udp", "--port=123"), "icmp": ("--type=icmp",)},
        protocols=("v4",),
    ),
    # It needs root's rights. Its UDP port grows, too.
    Kind("BusyBox", (*_ONE_BY_ONE, "1"), {"udp": ("-p", "123"), "icmp": ("-I",)}, source="-s"),
    # FreeBSD: installed with root's rights. -e keeps the port.
    Kind(
        "FreeBSD",
        (*_ONE_BY_ONE, "2"),
        {
            "udp": ("-P", "udp", "-e", "-p", "123"),
            "icmp": ("-P", "icmp"),
            "tcp": ("-P", "tcp", "-e", "-p", "123"),
        },
        source="-s",
        other_for_v6="traceroute6",
    ),
)

FREEBSD_V6: Final = Kind(
    "",
    (*_ONE_BY_ONE, "2"),
    {"udp": ("-U", "-p", "123"), "icmp": ("-I",), "tcp": ("-T", "-p", "123")},
    source="-s",
    protocols=("v6",),
)
"""FreeBSD's second program. Its UDP port grows."""


def kind_of(text: str) -> Kind | None:
    """Return the kind of a program by its answer to ``--version``, which may be an error; ``None`` if it is unknown."""
    return next((kind for kind in KINDS if kind.sign in text), None)


def arguments(kind: Kind, method: Method, ip: str, source: str | None) -> list[str]:
    """Return the arguments that trace the route to ``ip``.

    Args:
        source: address to send from, if the program can be told; ``None`` to leave it to the kernel.
    """
    own = [kind.source, source] if kind.source is not None and source is not None else []
    return [*kind.common, *kind.methods[method], *own, ip]
