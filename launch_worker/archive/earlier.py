"""Says what earlier runs of the same name, project and author used, as advice for whoever submits the next one."""

from __future__ import annotations

from sqlalchemy import and_, select

from launch_worker.archive.schema import runs, usage
from launch_worker.database.database import Database
from launch_worker.database.version import check_version
from launch_worker.model.advice import advise_by_earlier
from launch_worker.model.needs import NOTHING, Needs
from launch_worker.model.states import RunState
from launch_worker.model.usage import Usage

#: Runs whose usage is looked at, the newest; and runs of the name, of whatever project, among which they are.
_LAST = 20
_AMONG = 1000
_FIGURES = ("cpu_s", "gpu_s", "wall_s", "peak_memory")


def advice(
    database: Database, *, name: str, project: str, author: str, asked: Needs, before: int | None = None
) -> list[str]:
    """Sentences, where a run asks for far more or less than its earlier ones used; none where that is not known.

    `before`: server time in microseconds before which they were created. It takes a millisecond.
    """
    if asked == NOTHING or not name:
        return []
    check_version(database)
    c = runs.c
    named = select(c.id, c.attempt, c.project, c.author, c.state, c.created_at)
    named = named.where(c.name == name, c.deleted_at.is_(None))
    if before is not None:
        named = named.where(c.created_at < before)
    some = named.order_by(c.created_at.desc(), c.id.desc()).limit(_AMONG).subquery()
    is_latest = and_(usage.c.run_id == some.c.id, usage.c.attempt == some.c.attempt)
    of_them = (some.c.project == project, some.c.author == author, some.c.state == RunState.FINISHED.value)
    query = select(*(usage.c[figure] for figure in _FIGURES)).select_from(some.join(usage, is_latest)).where(*of_them)
    with database.reading() as connection:
        rows = connection.execute(query.order_by(some.c.created_at.desc()).limit(_LAST)).mappings().all()
    return advise_by_earlier(name, [Usage(**row) for row in rows], asked)
