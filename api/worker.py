"""Compose the API's worker: the HTTP server, and the periodic jobs of registration and of the CA.

Any number of them may run: all state is in the ledger.
"""

import asyncio
import socket

from api.app import build_api, guarded
from api.broker_of_agents import BrokerOfAgents
from api.jobs import add_jobs
from api.ops.desk import Desk
from api.ops.router import ops_router
from api.pages.router import pages_router
from api.published import Published
from api.services import build_services
from api.watched import show_times
from runtime.http.server import Server, open_sockets
from runtime.http.tls import ServerTls
from runtime.settings import ConfigurationError, WorkerSettings
from runtime.worker import Worker


async def start(worker: Worker, tasks: asyncio.TaskGroup) -> None:
    """Start the API in ``tasks``."""
    services, settings = build_services(worker), worker.settings
    published = Published(services.engine, services.authority, settings.ca_crl_file)
    broker = BrokerOfAgents(settings.broker_of_agents())
    tls = server_tls(settings)
    api = build_api(services, published, broker, [pages_router(services)])
    api.include_router(ops_router(Desk(services, worker.broker, worker.topics)))
    server = Server(guarded(api, services), _sockets(settings), tls)
    show_times(services.metrics, published, settings)
    add_jobs(worker, services, published, tls)
    worker.life.needs_broker = False  # hosts register and renew without it
    tasks.create_task(server.run(), name="http server")
    await server.listening.wait()


def server_tls(settings: WorkerSettings) -> ServerTls | None:
    """Return the certificate of the API; ``None`` for plain HTTP.

    Raises:
        OSError: the files are invalid.
    """
    if settings.api_cert_file is None or settings.api_key_file is None:
        return None
    return ServerTls(settings.api_cert_file, settings.api_key_file)


def _sockets(settings: WorkerSettings) -> list[socket.socket]:
    try:
        return open_sockets(settings.api_addresses(), settings.api_port)
    except OSError as error:
        raise ConfigurationError(
            f"API_ADDRESS={settings.api_address}, API_PORT={settings.api_port}: "
            f"must be local addresses and a free port: {error}"
        ) from None
