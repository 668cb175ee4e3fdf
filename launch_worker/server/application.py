"""Puts the server together: routes, errors, fences, and what runs beside them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cache

from fastapi import APIRouter, FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.routing import BaseRoute
from starlette_compress import CompressMiddleware, add_compress_type, remove_compress_type

from launch_worker.api.redis_transport import RedisTransport
from launch_worker.database import open_database
from launch_worker.database.audit import SERVER, Audit
from launch_worker.database.migrate import migrate
from launch_worker.database.version import has_tables
from launch_worker.errors import ArchiveError
from launch_worker.objects import bound_reads
from launch_worker.people.claims import ProxyRules, parse_networks, parse_roles
from launch_worker.people.directory import Directory
from launch_worker.people.users_file import apply_users_file, read_users_file
from launch_worker.server.address import Address, Names
from launch_worker.server.archiving import archive_inside
from launch_worker.server.assets import MOUNT, Assets
from launch_worker.server.caching import Conditional
from launch_worker.server.celery_page import CeleryPage
from launch_worker.server.events import Events
from launch_worker.server.fence import Fence
from launch_worker.server.news import News
from launch_worker.server.oidc import Provider
from launch_worker.server.openapi import describe
from launch_worker.server.pages.routers import PAGES
from launch_worker.server.problems import handle_errors
from launch_worker.server.routes import (
    account,
    acts,
    celery,
    channels,
    events,
    files,
    groups,
    home,
    keys,
    lines,
    login_page,
    metrics,
    oidc,
    people,
    probes,
    queues,
    runs,
    schedules,
    streams,
    submit,
    sweeps,
    system,
    token_page,
    workers,
)
from launch_worker.server.shared import Shared
from launch_worker.settings import Settings

log = logging.getLogger("launch_worker.server")

API = "/api/v1"
#: Reading calls of a store that are under way at once: fewer than the forty threads of requests.
_MOST_READS = 16
#: Routers of the API, and those of what is beside it.
_API_ROUTERS = tuple(
    part.router
    for part in (
        *(account, people, submit, runs, lines, files, groups, streams, acts),
        *(queues, keys, workers, schedules, sweeps, system, events, channels),
    )
)
_OTHER_ROUTERS = (
    *(part.router for part in (probes, metrics, home, login_page, oidc, token_page)),
    *PAGES,
    celery.router,
)
#: All routers, each with its prefix.
_ROUTERS: tuple[tuple[str, APIRouter], ...] = (
    *((API, router) for router in _API_ROUTERS),
    *(("", router) for router in _OTHER_ROUTERS),
)


def make_application(
    settings: Settings,
    *,
    address: Address,
    loopback_key: str = "",
    with_archive: bool = False,
    with_celery_page: bool = False,
) -> FastAPI:
    """The application of a server that listens there; nothing is connected to before its lifespan begins."""
    shared = _shared(settings, address, loopback_key)
    bound_reads(_MOST_READS)

    @asynccontextmanager
    async def lifespan(application: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as parts:
            parts.callback(shared.database.close)
            for connection in (shared.connection, shared.acting):
                parts.callback(connection.store.close)
            parts.push_async_callback(run_in_threadpool, shared.news.stop)
            parts.push_async_callback(run_in_threadpool, shared.events.stop)
            if with_archive:
                archive = archive_inside(settings, address)
                archive.start()
                parts.push_async_callback(archive.stop)
            if with_celery_page:
                shared.celery_page = CeleryPage(settings)
                shared.celery_page.start()
                parts.push_async_callback(shared.celery_page.stop)
            yield

    application = FastAPI(
        title="launch_worker",
        lifespan=lifespan,
        # Its pages come from a foreign server.
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    application.state.shared = shared
    handle_errors(application)
    application.router.routes += _routes()
    application.mount(MOUNT, Assets())
    describe(application, _ROUTERS)
    application.add_middleware(Conditional)
    _compress(application)
    application.add_middleware(Fence, names=Names(settings.server_hosts), proxies=shared.proxy_rules)
    return application


@cache
def _routes() -> list[BaseRoute]:
    """The routes of all routers: one making of them, of 0.15 s, serves all applications of the process."""
    made = APIRouter(generate_unique_id_function=lambda route: route.name)
    for prefix, router in _ROUTERS:
        made.include_router(router, prefix=prefix)
    return made.routes


def _compress(application: FastAPI) -> None:
    """Have long answers compressed as the client asks for it: texts, but no streams of events, and no files."""
    for kind in ("application/problem+json", "application/x-ndjson"):
        add_compress_type(kind)
    remove_compress_type("text/event-stream")
    application.add_middleware(CompressMiddleware, minimum_size=1000, brotli=False)


def prepare(shared: Shared) -> None:
    """Make the tables where there are none, and read the users file. Raises SettingsError for a wrong one."""
    database, users_file = shared.database, shared.settings.users_file
    wanted = read_users_file(users_file) if users_file else None
    try:
        if database.file is not None:
            database.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not has_tables(database):
            migrate(database)
        if wanted is not None:
            apply_users_file(database, wanted)
    except ArchiveError as error:
        log.error("server.unprepared nobody can log in, and the users file is not read: %s", error)


def _shared(settings: Settings, address: Address, loopback_key: str) -> Shared:
    provider = Provider(settings) if settings.oidc_url else None
    database = open_database(settings, create=True)
    acting = RedisTransport(settings=settings, archive=database)
    # What the feed tells of this server's acts is told as its own: the audit has had them.
    acting.store.acl_user = SERVER
    reading = settings.for_reading()
    connection = acting if reading is settings else RedisTransport(settings=reading, archive=database)
    proxy_rules = ProxyRules(
        networks=parse_networks(settings.trusted_proxies, what="LAUNCH_TRUSTED_PROXIES"),
        user_header=settings.proxy_user_header,
        groups_header=settings.proxy_groups_header,
        roles=parse_roles(settings.proxy_roles, what="LAUNCH_PROXY_ROLES"),
    )
    news, events = News(connection.store), Events(connection.store, acting.store)
    return Shared(
        settings,
        address,
        loopback_key,
        connection,
        acting,
        database,
        Audit(database),
        Directory(database),
        proxy_rules,
        news,
        events,
        provider=provider,
    )
