"""Watch what ends or goes missing: the root of the CA, its revocation list, the key for tokens, and the agents."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from sqlalchemy.engine import Connection

from api.metrics import ApiMetrics
from api.ops.agents import Agent, read_agents
from api.published import Published
from runtime.settings import WorkerSettings
from schema.messages import LIVE
from schema.names import Environment

_END_OF_LIST: Final = "-----END X509 CRL-----"


def show_times(metrics: ApiMetrics, published: Published, settings: WorkerSettings) -> None:
    """Export when the CA's root and its revocation list end, and since when there is the key for tokens."""
    key_file = None if settings.jwt_key is not None else settings.jwt_key_file
    show, ca = metrics.show_time, settings.ca
    show("ca.root_end", "end of the root that signs", lambda: root_end(published.bundle), ca=ca)
    show("ca.revocation_list_end", "end of the revocation list", lambda: list_end(published.revocations), ca=ca)
    show("token_key.written", "last change of the file with the key for tokens", lambda: written(key_file))


def root_end(bundle: str | None) -> datetime | None:
    """Return the end of the current root, the first one in the bundle (PEM)."""
    return None if bundle is None else x509.load_pem_x509_certificates(bundle.encode())[0].not_valid_after_utc


def list_end(text: str | None) -> datetime | None:
    """Return when the first of the revocation lists in ``text`` (PEM) ends."""
    # There is a list for each root, and the library reads only the first one.
    blocks = (text or "").split(_END_OF_LIST)[:-1]
    ends = [x509.load_pem_x509_crl(f"{block.strip()}\n{_END_OF_LIST}\n".encode()).next_update_utc for block in blocks]
    return min((end for end in ends if end is not None), default=None)


def written(path: Path | None) -> datetime | None:
    """Return when a file was last written; ``None`` if there is none, or it cannot be accessed."""
    try:
        return None if path is None else datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except OSError:
        return None


def count_agents(connection: Connection, env: Environment, now: datetime) -> Mapping[str, int]:
    """Return the numbers of agents that shall probe by state, ``connected`` or ``away``. ``now`` is naive UTC."""
    wanted = [agent for agent in read_agents(connection, env, now) if _shall_probe(agent)]
    connected = sum(agent.online for agent in wanted)
    return {"connected": connected, "away": len(wanted) - connected}


def _shall_probe(agent: Agent) -> bool:
    return any(protocol.status in LIVE for protocol in agent.protocols.values())
