"""Makes runs in the store from what a submitter gave. Imports stay minimal: start-up time of `launch-submit`."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch_worker.config_folder import signing_key_file
from launch_worker.errors import BrokerUnavailableError, ForbiddenError, InputError, LaunchError
from launch_worker.ids import check_run_id, later_run_id, new_run_id, unique_run_id
from launch_worker.model.checks import check_queue_name, no_run_to_wait_for, parse_after
from launch_worker.model.notify import why_not_told
from launch_worker.model.spec import RunSpec
from launch_worker.model.unique import parse_unique
from launch_worker.queues.read import queue_of, signers_of
from launch_worker.settings import Settings
from launch_worker.store.submit import UNSEEN, Announced, ConfigChanged, Configs, Created, Creator, New, Once
from launch_worker.submission.options import DEFAULT_QUEUE, Item, Ready
from launch_worker.submission.resolve import from_here, resolve
from launch_worker.submission.sent import Sent, me

if TYPE_CHECKING:
    from launch_worker.trust.signatures import Signer
    from launch_worker.trust.trusted import TrustedKey

#: Runs in one round trip. Redis does nothing else for the few milliseconds that they take.
_BATCH = 100
#: Seconds for which the names of channels are not asked for again.
_CHANNELS_S = 2.0
#: Seconds for which it is not asked again whether the own key is trusted.
_KEY_S = 1.0


class Submitter:
    """A connection to one launch system, for submitting only, by one thread; `Api` is one that does the rest too."""

    def __init__(self, url: str | None = None, *, settings: Settings | None = None) -> None:
        self.settings = settings or Settings.from_env(redis_url=url)
        #: Name and groups of the person for whom a server submits; '' and none for whoever reaches Redis.
        self.user = ""
        self.groups: frozenset[str] = frozenset()
        self._store: Creator | None = None
        #: Configurations of each queue and its pool, as last seen.
        self._configs: dict[str, Configs] = {}
        #: The sha256 of each folder that was sent, by its path.
        self._sent: dict[str, str] = {}
        #: Names of channels, None while no process sends notices, and the monotonic time until which they are taken.
        self._channels: tuple[str, ...] | None = None
        self._channels_until = 0.0
        #: What Redis knows of the key with which this process signs, and the monotonic time until which that is taken.
        self._own_key: TrustedKey | None = None
        self._own_key_until = 0.0
        #: Called while a folder is sent, with the bytes that are sent and all bytes.
        self.on_upload: Callable[[int, int], None] = lambda *_: None

    @cached_property
    def actor(self) -> str:
        """Who acts through this connection: USER@HOST of this process. The look-up is slow, so its result is kept."""
        return me()

    @property
    def store(self) -> Creator:
        """The store, connected to at its first call."""
        if self._store is None:
            self._store = Creator(self.settings.redis_url, is_quick=True)
        return self._store

    def send(
        self,
        given: Mapping[str, Any],
        *,
        delay_s: float = 0.0,
        at_us: int | None = None,
        strict: bool = False,
        run_id: str = "",
        group: Announced | None = None,
        once: Once | None = None,
        secrets: Mapping[str, str] | None = None,
    ) -> Sent:
        """Write the run and its queue item in one step: `Api.submit`, for arguments of RunSpec."""
        run_id = check_run_id(run_id) if run_id else new_run_id()
        while True:
            ready = self._provable(given, secrets or {})
            spec, signature = self._proven(run_id, ready, secrets or {})
            configs = ready.configs
            try:
                created = self.store.create(
                    run_id,
                    spec,
                    **configs._asdict(),
                    delay_s=delay_s,
                    at_us=at_us,
                    if_queue_known=strict,
                    user=self.user,
                    user_groups=tuple(sorted(self.groups)),
                    group=group,
                    waits=self._waits_of(spec),
                    once=once,
                    signature=signature,
                )
            except ConfigChanged as changed:
                # Not read before: most queues have no configuration.
                self._configs[spec.queue] = changed.configs
            else:
                return _sent(New(run_id, spec, group=group, once=once), created)

    def check_items(self, items: Iterable[Item], *, strict: bool) -> None:
        """Check all items. Raises InputError, with its place in its file, for the first that could not be submitted."""
        known = {DEFAULT_QUEUE, *self.store.queue_names()} if strict else set()
        queues: set[str] = set()
        runs: set[str] = set()
        for item in items:
            try:
                ready = self._provable(item.given, item.secrets, fresh=item.queue not in queues)
                item.ready = ready if item.upload is None else None
                queues.add(item.queue)
                if strict and item.queue not in known:
                    raise InputError(f"there is no queue {item.queue!r}; known are: {', '.join(sorted(known))}")
                if item.upload is not None and not os.path.isdir(item.upload):
                    raise InputError(f"upload {item.upload!r} is not a folder of this machine")
                self.check_waits(ready.spec, runs)
                if item.run_id:
                    runs.add(self._id_of(item, ready))
            except InputError as error:
                raise item.error(error) from None

    def check_waits(self, spec: RunSpec, known: set[str] | None = None) -> None:
        """Raises InputError where a run would wait for one that is not there. Those of `known` are, or will be."""
        if not (spec.after or spec.inputs):
            return
        known = set() if known is None else known
        waits = self._waits_of(spec)
        for other, wish in (spec.waits if waits is None else waits).items():
            if other not in known and (wish == UNSEEN or not self.store.exists(other)):
                raise no_run_to_wait_for(other)
            known.add(other)

    def _waits_of(self, spec: RunSpec) -> Mapping[str, str] | None:
        """The runs and groups for which a run waits, where the spec does not say that, as `New.waits`; None else.

        A run of which it takes outputs has ended, where Redis has forgotten that one.
        """
        if not spec.inputs:
            return None
        named = {parse_after(text)[0] for text in spec.after}
        waits = spec.waits
        return {other: wish for other, wish in waits.items() if other in named or not self._is_forgotten(other)}

    def _is_forgotten(self, run_id: str) -> bool:
        """Whether Redis has forgotten a run whose outputs are kept."""
        if not self.settings.output_url or self.store.exists(run_id):
            return False
        # Imported where it is needed: start-up time.
        from launch_worker.outputs.stored import StoredOutputs

        return bool(StoredOutputs(self.settings.output_url).attempts(run_id))

    def send_items(
        self, items: Iterable[Item], *, strict: bool = False, singles: int | None = None
    ) -> Iterator[tuple[Sent, Item]]:
        """Submit runs and arrays of runs, in order, many in a round trip. Raises as `send`.

        `singles` is the number of items that are no arrays, where it is known: items are then taken as they are sent.
        All that was submitted before an error is yielded before it is raised; when Redis went away, some of the last
        runs may have been submitted and not be yielded.
        """
        made = self._runs_of(items, singles)
        sent: deque[list[tuple[New, Item]]] = deque()
        problem: LaunchError | None = None
        # Runs that each group has not got yet.
        unmade: dict[str, int] = {}

        def batches() -> Iterator[list[New]]:
            nonlocal problem
            while problem is None:
                batch: list[tuple[New, Item]] = []
                try:
                    for one in islice(made, _BATCH):
                        batch.append(one)
                except LaunchError as error:
                    problem = error
                if batch:
                    sent.append(batch)
                    yield [new for new, _ in batch]
                if len(batch) < _BATCH:
                    return

        def note(group: Announced | None, *, is_new: bool) -> None:
            if group is not None and is_new:
                unmade[group.key] = unmade.get(group.key, group.size) - 1

        is_done = False
        try:
            for answers in self.store.create_batches(batches(), if_queue_known=strict):
                for (new, item), answer in zip(sent.popleft(), answers, strict=True):
                    if isinstance(answer, Created):
                        note(new.group, is_new=answer.is_new)
                        yield _sent(new, answer), item
                        continue
                    try:
                        if isinstance(answer, LaunchError):
                            raise answer
                        # The queue has a configuration that was not known here: submit again with the current one.
                        if problem is None:
                            self._configs[new.spec.queue] = answer.configs
                            again = self._send_again(new, item, strict=strict)
                            note(new.group, is_new=again.is_new)
                            yield again, item
                    except LaunchError as error:
                        problem = problem or (item.error(error) if isinstance(error, InputError) else error)
            is_done = problem is None
        finally:
            # A submitter that dies here leaves that to a pass, a minute later.
            with contextlib.suppress(LaunchError):
                for group in [group for group, count in unmade.items() if count]:
                    self.store.seal_group(group, is_whole=is_done)
        if problem is not None:
            raise problem

    def _runs_of(self, items: Iterable[Item], singles: int | None) -> Iterator[tuple[New, Item]]:
        """The runs of all items, in order: several runs that are in no array are a group, a bulk submission."""
        if singles is None:
            items = list(items)
            singles = sum(item.array is None for item in items)
        bulk: Announced | None = None
        proven = (self.user, tuple(sorted(self.groups)))
        for item in items:
            ready = self._ready(item)
            when = (*ready.configs, item.delay_s or 0.0, item.at_us, *proven)
            waits = self._waits_of(ready.spec)
            if item.array is None:
                run_id = self._id_of(item, ready)
                if singles > 1 and bulk is None:
                    bulk = Announced(f"b{run_id}", f"b{run_id}", singles)
                spec, signature = self._proven(run_id, ready, item.secrets)
                yield New(run_id, spec, *when, bulk, waits, self._once_of(item, ready), signature), item
                continue
            indexes = item.array.indexes
            first_id = self._id_of(item, ready, indexes[0], room=len(indexes))
            array = Announced(first_id, f"a{first_id}", len(indexes))
            once = self._once_of(item, ready)
            for place, index in enumerate(indexes):
                spec = replace(ready.spec, array=first_id, array_index=index, array_limit=item.array.limit)
                is_by_key = item.unique and once is None
                run_id = self._id_of(item, ready, index) if is_by_key else later_run_id(first_id, place)
                spec, signature = self._proven(run_id, ready._replace(spec=spec), item.secrets)
                yield New(run_id, spec, *when, array, waits, once and once._replace(place=place), signature), item

    def _id_of(self, item: Item, ready: Ready, index: int | None = None, *, room: int = 1) -> str:
        """The id of an item's run, or of the run of its array that has an index. `room`: the number of ids needed."""
        if item.unique and not parse_unique(item.unique).is_timed:
            return self._id_by(item.unique, ready, index)
        return item.run_id or new_run_id(room=room)

    def _once_of(self, item: Item, ready: Ready) -> Once | None:
        """The key that an item's run has for a time; None where it has none, or has it for ever, by its id."""
        if not item.unique:
            return None
        unique = parse_unique(item.unique)
        return Once(self._id_by(unique.key, ready), unique.for_s) if unique.is_timed else None

    def _id_by(self, key: str, ready: Ready, index: int | None = None) -> str:
        # An author is USER@HOST, whichever machine it is.
        user = self.user or ready.spec.author.partition("@")[0]
        return unique_run_id(key, user=user, project=ready.spec.project, index=index)

    def _ready(self, item: Item) -> Ready:
        """The run that an item is, its folder sent. Raises InputError, with the item's place in a file."""
        try:
            ready = item.ready or self._provable(item.given, item.secrets)
            if item.upload is not None:
                # All other mistakes were found above, before the folder is read.
                ready = self.resolve(item.given | {"upload": self.send_folder(item.upload)})
        except InputError as error:
            raise item.error(error) from None
        return ready

    def _send_again(self, new: New, item: Item, *, strict: bool) -> Sent:
        given = dict(item.given)
        if item.upload is not None:
            given["upload"] = new.spec.upload
        if item.array is not None:
            spec = new.spec
            given |= {"array": spec.array, "array_index": spec.array_index, "array_limit": spec.array_limit}
        return self.send(
            given,
            delay_s=new.delay_s,
            at_us=new.at_us,
            strict=strict,
            run_id=new.run_id,
            group=new.group,
            once=new.once,
            secrets=item.secrets,
        )

    @cached_property
    def _signer(self) -> Signer | None:
        """What signs this process's runs; None where there is no key. Raises SettingsError."""
        path = self.settings.signing_key
        if path is None:
            own = signing_key_file(os.environ)
            # Most users have none, and every submission looks.
            path = own if own is not None and own.exists() else None
        if path is None:
            return None
        # Imported on demand: start-up time of `launch-submit`.
        from launch_worker.trust.signatures import signer_of

        return signer_of(path)

    def _check_proof(self, ready: Ready, secrets: Mapping[str, str]) -> None:
        """Raises InputError for a run that cannot be signed though its queue asks for it, or with secrets amiss."""
        spec, (queue_config, _) = ready
        if signers := signers_of(queue_config):
            self._check_signer(spec.queue, signers)
        if secrets:
            from launch_worker.model.secrets import check_names
            from launch_worker.model.spec import check_secret_names
            from launch_worker.trust.secrets import check_values

            check_names(secrets)
            check_secret_names(secrets, spec)
            check_values(secrets)
            if not (queue_config and queue_of(queue_config).sealing_key):
                raise InputError(
                    f"queue {spec.queue!r} has no sealing key, by which secrets are kept from others than its workers; "
                    f"an admin makes one with: launch-worker keys new --for-queue {spec.queue}"
                )

    def _check_signer(self, queue: str, signers: tuple[str, ...]) -> None:
        """Raises InputError where no key of this process may sign runs of a queue, as far as Redis knows the keys."""
        if self._signer is None:
            whose = (
                "this server has no signing key; its admin sets LAUNCH_SIGNING_KEY"
                if self.user
                else "you have no signing key; make one with: launch-worker keys new"
            )
            raise InputError(f"queue {queue!r} takes signed runs only, and {whose}")
        # Imported on demand: start-up time of `launch-submit`.
        from launch_worker.trust.trusted import TrustedKey, why_not_signer

        key_id = self._signer.public.id
        if time.monotonic() >= self._own_key_until:
            try:
                text = self.store.trusted_key(key_id)
            except ForbiddenError:
                return  # an older ACL file: the claim says it
            self._own_key = TrustedKey.of_text(text) if text else None
            self._own_key_until = time.monotonic() + _KEY_S
        key = self._own_key
        why = why_not_signer(key, key_id, signers=signers, queue=queue)
        if not why and key is not None and self.user and not key.is_server:
            why = f"{key.name} ({key.id}), which is trusted as no server's; an admin: launch-worker keys trust --server"
        if why:
            self._own_key_until = 0.0  # an admin may have trusted it by the next look
        if why and not self._has_other_keys(queue):
            whose = "this server signs" if self.user else "yours are signed"
            raise InputError(f"queue {queue!r} takes signed runs only, and {whose} with key {why}")

    def _has_other_keys(self, queue: str) -> bool:
        """Whether a worker of a queue trusts keys of a file of its own, of which nobody else knows."""
        return any(
            worker.get("has_own_trusted_keys") and queue in (worker.get("queues") or ())
            for worker in self.live_workers()
        )

    def _provable(self, given: Mapping[str, Any], secrets: Mapping[str, str], *, fresh: bool = False) -> Ready:
        """`resolve`, for a run that can be signed if its queue asks for it, and whose secrets can be sealed."""
        ready = self.resolve(given, fresh=fresh)
        try:
            self._check_proof(ready, secrets)
        except InputError:
            if fresh:
                raise
            # The queue's configuration may be another one by now.
            return self._provable(given, secrets, fresh=True)
        return ready

    def _proven(self, run_id: str, ready: Ready, secrets: Mapping[str, str]) -> tuple[RunSpec, str]:
        """The spec with its secrets sealed, and its signature, '' where there is no key."""
        spec, (queue_config, _) = ready
        if secrets:
            from launch_worker.trust.keys import read_public
            from launch_worker.trust.secrets import sealed

            key = read_public(queue_of(queue_config).sealing_key, "seal")
            spec = replace(spec, secrets=sealed(secrets, key, run_id=run_id, spec_text=spec.to_json(), user=self.user))
        signer = self._signer
        return spec, "" if signer is None else signer.signature(run_id, spec.to_json(), user=self.user)

    def complete(self, given: Mapping[str, Any], *, fresh: bool = False) -> RunSpec:
        """The run that these arguments are, with the defaults of its queue. Raises InputError."""
        return self.resolve(given, fresh=fresh).spec

    def live_workers(self) -> list[dict[str, Any]]:
        """The descriptions of the live workers, as they last spoke."""
        return self.store.workers()

    def resolve(self, given: Mapping[str, Any], *, fresh: bool = False) -> Ready:
        """The run that these arguments are, and the configurations of queue and pool that completed it.

        With `fresh` the configurations are read from Redis, else those last seen are taken. Raises InputError.
        """
        queue = given.get("queue") or DEFAULT_QUEUE
        if fresh:
            check_queue_name(queue)
            self._configs[queue] = self.store.configs_of(queue)
        try:
            return self._resolve(queue, given)
        except InputError:
            if fresh:
                raise
            # The queue's current configuration may give what is missing.
            with contextlib.suppress(BrokerUnavailableError):
                return self.resolve(given, fresh=True)
            raise

    def _resolve(self, queue: str, given: Mapping[str, Any]) -> Ready:
        configs = self._configs.get(queue, Configs())
        given = self._completed(given)
        if given.get("notify"):
            self._check_told(given["notify"])
        return Ready(resolve(given, **configs._asdict()), configs)

    def _check_told(self, notify: Sequence[str]) -> None:
        """Raises InputError where nobody would tell a channel that the submitter names, or there is no such channel.

        A channel among the defaults of a queue is not checked: its runs go on, and what they tell is kept.
        """
        if time.monotonic() >= self._channels_until:
            self._channels = self.store.notice_channels()
            self._channels_until = time.monotonic() + _CHANNELS_S
        refusal = why_not_told(notify, self._channels)
        if refusal is not None:
            raise refusal

    def _completed(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments, with what this process says of its submitter."""
        return from_here(given, author=self.actor, project=self.settings.project)

    def send_folder(self, folder: str) -> str:
        """Send a folder of this machine, unless this connection has sent it. Returns its sha256. Raises InputError."""
        from launch_worker.code.send import send_folder
        from launch_worker.store.store import Store

        path = os.path.abspath(folder)
        if path not in self._sent:
            store = self.store if isinstance(self.store, Store) else Store(self.settings.redis_url)
            self._sent[path] = send_folder(Path(path), settings=self.settings, store=store, on_sent=self.on_upload)
        return self._sent[path]


def _sent(new: New, created: Created) -> Sent:
    group = new.group
    if created.holder:
        run_id = later_run_id(created.holder, 0 if new.once is None else new.once.place)
        return Sent(run_id, created.consumers, False, f"a{created.holder}" if new.spec.array else "")
    return Sent(new.run_id, created.consumers, created.is_new, "" if group is None else group.id)
