"""Reads, follows and steers groups of runs, and sweeps, through a server."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from launch_worker.api.http_answers import known, path_of
from launch_worker.api.http_connection import part_of_path
from launch_worker.api.http_submitter import HttpSubmitter
from launch_worker.errors import NotFoundError, UnknownRunError
from launch_worker.model.group import GroupRecord
from launch_worker.model.sweep import SweepOrder, SweepRecord, Trial
from launch_worker.untrusted.text import read_map

#: Seconds of one wait at the server for news of a group or sweep.
_WAIT_S = 20.0


class HttpGroups(HttpSubmitter):
    """The part of the transport through a server that is about groups and sweeps. `Transport` documents it."""

    def group(self, group_id: str) -> GroupRecord | None:
        try:
            said = self.server.ask("GET", _group(group_id))
        except UnknownRunError:
            return None
        return known(GroupRecord, said)

    def known_groups(self, group_ids: Sequence[str]) -> dict[str, GroupRecord]:
        if not group_ids:
            return {}
        said = self.server.ask("GET", "/run-groups", query={"ids": ",".join(group_ids)})["groups"]
        return {group_id: known(GroupRecord, one) for group_id, one in said.items()}

    def group_runs(self, group: GroupRecord, *, skip: int, limit: int) -> list[str]:
        said = self.server.ask("GET", _group(group.id, "/runs"), query={"skip": skip, "limit": limit})
        ids: list[str] = said["ids"]
        return ids

    def follow_group(self, group_id: str, *, deadline: float | None) -> Iterator[GroupRecord]:
        while (record := self.group(group_id)) is not None:
            yield record
            if record.is_over or (deadline is not None and time.monotonic() >= deadline):
                return
            left_s = _WAIT_S if deadline is None else min(_WAIT_S, deadline - time.monotonic())
            self.server.ask("GET", _group(group_id, "/wait"), query={"timeout": max(0.0, left_s)})

    def cancel_group(self, group: GroupRecord, *, reason: str, grace_s: float | None) -> tuple[int, int]:
        said = self.server.ask("POST", _group(group.id, "/cancel"), body={"reason": reason, "grace_s": grace_s})
        return said["killed"], said["requested"]

    def retry_group(self, group: GroupRecord, *, only_failed: bool, not_on_same_worker: bool = False) -> int:
        # A server of the release before refuses a word that it does not know.
        more = {"not_on_same_worker": True} if not_on_same_worker else {}
        how = {"only_failed": only_failed, **more}
        retried: int = self.server.ask("POST", _group(group.id, "/retry"), body=how)["retried"]
        return retried

    def create_sweep(self, sweep_id: str, fields: Mapping[str, str | int]) -> str:
        body = {name: fields[name] for name in ("name", "workers", "seed")} | {
            "id": sweep_id,
            "cap": fields["cap"] or None,
            "config": read_map(str(fields["config"])),
            "given": read_map(str(fields["given"])),
        }
        return str(self.server.ask("POST", "/sweeps", body=body, is_repeatable=True)["id"])

    def sweep(self, sweep_id: str) -> SweepRecord | None:
        try:
            return _sweep(self.server.ask("GET", path_of("sweeps", sweep_id)))
        except NotFoundError:
            return None

    def sweeps(self) -> list[SweepRecord]:
        return [_sweep(said) for said in self.server.ask("GET", "/sweeps")["sweeps"]]

    def trials(self, sweep_id: str) -> list[Trial]:
        return [
            known(Trial, said | {"curve": tuple((step, value) for step, value in said["curve"])})
            for said in self.server.ask("GET", path_of("sweeps", sweep_id, "trials"))["trials"]
        ]

    def steer_sweep(self, sweep_id: str, word: SweepOrder, *, reason: str) -> tuple[bool, str]:
        # The server says who it was.
        said = self.server.ask("POST", path_of("sweeps", sweep_id, word))
        return said["done"], said["state"]

    def follow_sweep(self, sweep_id: str, *, deadline: float | None) -> Iterator[SweepRecord]:
        record = self.sweep(sweep_id)
        while record is not None:
            yield record
            left_s = _WAIT_S if deadline is None else min(_WAIT_S, deadline - time.monotonic())
            if record.is_over or left_s <= 0:
                return
            query = {"state": record.state, "timeout": left_s}
            try:
                record = _sweep(self.server.ask("GET", path_of("sweeps", sweep_id, "wait"), query=query))
            except NotFoundError:
                return


def _group(group_id: str, rest: str = "") -> str:
    return f"/run-groups/{part_of_path(group_id)}{rest}"


def _sweep(said: Mapping[str, Any]) -> SweepRecord:
    texts = {name: json.dumps(said[name]) for name in ("config", "given")}
    return known(SweepRecord, {**said, **texts})
