"""Puts the server together: routes, errors, fences, and what runs beside them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from fastapi import APIRouter, FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.middleware.gzip import GZipMiddleware
from starlette.staticfiles import StaticFiles

from launch_worker.api.connection import Connection
from launch_worker.server.address import Address, Names
from launch_worker.server.archiving import ArchiveInside
from launch_worker.server.celery_page import CeleryPage
from launch_worker.server.fence import Fence
from launch_worker.server.openapi import describe
from launch_worker.server.problems import handle_errors
from launch_worker.server.routes import account, celery, home, probes
from launch_worker.server.shared import Shared
from launch_worker.settings import Settings

API = "/api/v1"
#: Routers of the API, and those of what is beside it.
_API_ROUTERS = (account.router,)
_OTHER_ROUTERS = (probes.router, home.router, celery.router)


def make_application(
    settings: Settings,
    *,
    address: Address,
    loopback_key: str = "",
    with_archive: bool = False,
    with_celery_page: bool = False,
) -> FastAPI:
    """The application of a server that listens there; nothing is connected to before its lifespan begins."""
    shared = Shared(settings, address, loopback_key, Connection(settings=settings))

    @asynccontextmanager
    async def lifespan(application: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as parts:
            parts.callback(shared.connection.store.close)
            if with_archive:
                archive = ArchiveInside(settings)
                archive.start()
                parts.push_async_callback(run_in_threadpool, archive.stop)
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
        generate_unique_id_function=lambda route: route.name,
        redirect_slashes=False,
    )
    application.state.shared = shared
    handle_errors(application)
    routers: list[tuple[str, APIRouter]] = [(API, router) for router in _API_ROUTERS]
    routers += [("", router) for router in _OTHER_ROUTERS]
    for prefix, router in routers:
        application.include_router(router, prefix=prefix)
    application.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"))
    describe(application, routers)
    application.add_middleware(GZipMiddleware, minimum_size=1000, compresslevel=5)
    application.add_middleware(Fence, names=Names(settings.server_hosts))
    return application
