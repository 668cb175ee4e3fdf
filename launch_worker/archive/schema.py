"""Defines the archive's tables. A change comes with a file in `database/migrations`, and a test compares the two.

Times are integers: microseconds of the Redis server's clock. JSON is text in both databases. A text that is not known
is empty.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Double, Index, Integer, MetaData, String, Table, Text, text

metadata = MetaData()

#: A text that is compared and sorted by its code points in every database.
_ORDERED = Text().with_variant(Text(collation="C"), "postgresql")
#: A number that SQLite counts by itself: only a column of type INTEGER is its row's own number.
_ROW = BigInteger().with_variant(Integer, "sqlite")


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False, server_default="")


def _ordered(name: str) -> Column[str]:
    return Column(name, _ORDERED, nullable=False, server_default="")


def _number(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False, server_default="0")


def _id(name: str, *, is_key: bool = False) -> Column[str]:
    return Column(name, String(255), primary_key=is_key, nullable=False)


runs = Table(
    "runs",
    metadata,
    #: Number of the row, by which SQLite's text index names it.
    Column("number", _ROW, primary_key=True, autoincrement=True),
    Column("id", String(255).with_variant(String(255, collation="C"), "postgresql"), nullable=False),
    _ordered("name"),
    _ordered("project"),
    _ordered("queue"),
    #: Submitter as they said, USER@HOST, and the name of the user whom a server has proven, '' for none.
    _ordered("author"),
    _ordered("user"),
    _number("priority"),
    #: Command as one line, and bounded; the whole of it is in the spec.
    _text("command"),
    _text("image"),
    #: JSON of the hyperparameters, `Record.config`.
    _text("config"),
    #: JSON of the spec.
    _text("spec"),
    _ordered("state"),
    _ordered("reason"),
    _number("attempt"),
    _ordered("worker"),
    _ordered("host"),
    Column("exit_code", BigInteger),
    _text("signal"),
    _text("phase"),
    _text("message"),
    _number("created_at"),
    Column("started_at", BigInteger),
    Column("ended_at", BigInteger),
    _ordered("array"),
    _ordered("sweep"),
    #: Place in the run's history of the newest transition that was applied; 0 is the creation.
    _number("seq"),
    #: Lower-case text for the search: lines with name, command, tags, config and, the last, the reason.
    _text("search"),
    #: JSON of the record's other fields at the end of the run; '' before that.
    _text("record"),
    #: The `ended_at` with which `record` was read and Redis was told that it may forget the run.
    Column("sealed", BigInteger),
    #: The `ended_at` with which its small outputs were packed, or seen to be none; NULL before that, and where there is
    #: no store of logs.
    Column("packed", BigInteger),
    #: Time at which Redis was seen to have the run no more; NULL while it has it. A run that has not ended by then is
    #: one that Redis lost: nobody knows how it ended.
    Column("forgotten_at", BigInteger),
    #: Time at which a person deleted the run, and who. All that its submitter wrote, but for the name, is gone then.
    Column("deleted_at", BigInteger),
    _text("deleted_by"),
)

Index("runs_id", runs.c.id, unique=True)
# With the groups: a list that leaves some out looks at no row of theirs.
Index("runs_created", runs.c.created_at, runs.c.id, runs.c.array, runs.c.sweep)
for _name in ("state", "queue", "project", "author", "user", "name"):
    Index(f"runs_{_name}", runs.c[_name], runs.c.created_at, runs.c.id)
for _name in ("array", "sweep"):
    _there = runs.c[_name] != ""
    Index(f"runs_{_name}", runs.c[_name], runs.c.created_at, runs.c.id, sqlite_where=_there, postgresql_where=_there)
Index("runs_ended", runs.c.ended_at)
Index("runs_exit_code", runs.c.exit_code, runs.c.created_at.desc(), runs.c.id.desc())
# Runs of which the search text may not have all: they are looked at beside those that the index of texts finds.
_is_cut = text("length(search) > 8000")
Index("runs_cut", runs.c.number, sqlite_where=_is_cut, postgresql_where=_is_cut)
# Counts of runs by these fields read nothing but this.
_kept = runs.c.deleted_at.is_(None)
_counted = (runs.c.queue, runs.c.state, runs.c.project, runs.c.author, runs.c.user, runs.c.created_at, runs.c.name)
Index("runs_counted", *_counted, sqlite_where=_kept, postgresql_where=_kept)
# The few rows that are looked at again: what Redis has yet, and what it may not forget yet.
_in_redis = runs.c.forgotten_at.is_(None)
Index("runs_in_redis", runs.c.created_at, runs.c.id, sqlite_where=_in_redis, postgresql_where=_in_redis)
_unsealed = text("sealed IS NULL AND ended_at IS NOT NULL")
Index("runs_unsealed", runs.c.ended_at, sqlite_where=_unsealed, postgresql_where=_unsealed)
_unpacked = text("sealed IS NOT NULL AND packed IS NULL AND forgotten_at IS NULL")
Index("runs_unpacked", runs.c.ended_at, sqlite_where=_unpacked, postgresql_where=_unpacked)

run_tags = Table(
    "run_tags",
    metadata,
    _id("run_id", is_key=True),
    _id("tag", is_key=True),
    Index("run_tags_tag", "tag", "run_id"),
    sqlite_with_rowid=False,
)

attempts = Table(
    "attempts",
    metadata,
    _id("run_id", is_key=True),
    Column("attempt", BigInteger, primary_key=True, autoincrement=False),
    _text("worker"),
    _text("host"),
    #: JSON list of the GPUs' ids.
    _text("gpus"),
    Column("started_at", BigInteger),
    Column("ended_at", BigInteger),
    _text("state"),
    Column("exit_code", BigInteger),
    _text("signal"),
    _text("phase"),
    _text("reason"),
    _text("message"),
    #: Bytes of the outputs that are kept of it.
    _number("output_bytes"),
    sqlite_with_rowid=False,
)

transitions = Table(
    "transitions",
    metadata,
    _id("run_id", is_key=True),
    #: Place in the history, from 0 for the creation. A number may be missing: a creation with a reason is a line of the
    #: history too, so that 2 follows.
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    _text("state"),
    _number("at"),
    _number("attempt"),
    _text("worker"),
    _text("reason"),
    _text("actor"),
    sqlite_with_rowid=False,
)

usage = Table(
    "usage",
    metadata,
    _id("run_id", is_key=True),
    Column("attempt", BigInteger, primary_key=True, autoincrement=False),
    #: Seconds of CPU and of GPUs, and from begin to end.
    Column("cpu_s", Double),
    Column("gpu_s", Double),
    Column("wall_s", Double),
    #: Bytes of resident memory: the most, and the mean over time; and their integral in GB hours.
    Column("peak_memory", BigInteger),
    Column("mean_memory", BigInteger),
    Column("memory_gb_h", Double),
    Column("peak_gpu_memory", BigInteger),
    Column("disk_bytes", BigInteger),
    #: Cores, bytes and devices that the run asked for.
    Column("asked_cpus", Double),
    Column("asked_memory", BigInteger),
    Column("asked_gpus", BigInteger),
    #: Samples over time, in a text of at most 4 KiB.
    _text("samples"),
)


def _things(name: str) -> Table:
    """A table of things of which a person wants to know later that they were there."""
    return Table(
        name,
        metadata,
        _id("id", is_key=True),
        #: Newest act: created, changed, paused, resumed, stopped, ended, deleted …
        _text("what"),
        _text("actor"),
        #: JSON that came with the newest act that had some.
        _text("detail"),
        _number("created_at"),
        _number("changed_at"),
        Column("deleted_at", BigInteger),
    )


sweeps = _things("sweeps")
schedules = _things("schedules")
#: Arrays and bulk submissions: `groups` are people.
run_groups = _things("run_groups")

#: Runs whose logs are to be deleted. A row stays for a while after that: a worker that was cut off may write late.
log_deletions = Table(
    "log_deletions",
    metadata,
    _id("run_id", is_key=True),
    #: Times of the run's deletion, and of the next look for its logs.
    _number("deleted_at"),
    _number("due_at"),
    Index("log_deletions_due", "due_at"),
    sqlite_with_rowid=False,
)

#: Packs: objects in the store of logs with the small outputs of many attempts. A row is written before its object.
packs = Table(
    "packs",
    metadata,
    _id("name", is_key=True),
    _number("begun_at"),
    #: Bytes of the object; 0 before it is whole.
    _number("stored"),
    #: Whether it has lost an output since it was last looked at: 1, else 0.
    _number("changed"),
    sqlite_with_rowid=False,
)

#: Attempts whose output is in a pack, or is known to be in a log of its own.
packed_logs = Table(
    "packed_logs",
    metadata,
    _id("run_id", is_key=True),
    Column("attempt", BigInteger, primary_key=True, autoincrement=False),
    #: Name of the pack; '' for an output that has a log of its own.
    _text("pack"),
    #: Bytes of it in the pack.
    _number("stored"),
    #: Manifest, in JSON. Without a log of its own it says where the output is, else how much there was.
    _text("manifest"),
    Index("packed_logs_pack", "pack"),
    sqlite_with_rowid=False,
)

#: The one row that says how far the archive is.
position = Table(
    "position",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    #: Id of the newest entry of the feed that was applied.
    _text("feed_id"),
    #: Times at which an entry was last applied, and at which Redis was last asked for more.
    _number("applied_at"),
    _number("asked_at"),
    #: Times of the last walk through Redis' indexes that came to its end, and the number of runs that it mended.
    _number("walk_began_at"),
    _number("walk_ended_at"),
    _number("walk_mended"),
    #: Time at which it was noted that some changes may be missing; NULL after a walk that began later.
    Column("missed_at", BigInteger),
)

#: The one row that says which process writes. Its form must never change: a program of any age reads it.
leader = Table(
    "leader",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    _text("holder"),
    #: End of the lease in microseconds of the database's clock; with SQLite, of the machine's.
    _number("until"),
)
