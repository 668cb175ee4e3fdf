"""Looks at keys: who may sign for a queue, and which workers can open its secrets."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from launch_worker.errors import InputError
from launch_worker.model.finding import Finding
from launch_worker.model.worker import keys_of
from launch_worker.settings import Settings
from launch_worker.store.store import Store
from launch_worker.trust.keys import read_public
from launch_worker.trust.trusted import ANY, TrustedKey
from launch_worker.untrusted.text import read_map


def signers(store: Store, _: Settings) -> Iterator[Finding]:
    """The queues that take signed runs only, and none whose key is trusted."""
    known = []
    for text in store.trusted_keys():
        with contextlib.suppress(InputError):
            known.append(TrustedKey.of_text(text))
    trusted = [key for key in known if key.revoked_at is None]
    for name in store.queue_names():
        signers = read_map(store.queue_config(name)).get("signers")
        named = list(map(str, signers)) if isinstance(signers, list) else []
        if named and not any(key.is_named(one) for key in trusted for one in named):
            whom = "any trusted key" if ANY in named else " or ".join(named[:3])
            yield Finding(
                "warning",
                "queue.signers",
                f"queue {name} takes only runs that are signed by {whom}, and Redis has no such trusted key",
                "launch-worker keys trust sign:… --name NAME; workers with LAUNCH_TRUSTED_KEYS have keys of their own",
            )


def keys_of_workers(store: Store, _: Settings) -> Iterator[Finding]:
    """What workers ask of signatures, and whether they can open the secrets of their queues."""
    workers = [worker for worker in store.workers() if isinstance(worker.get("sealing_keys"), list)]
    for worker in workers:
        if keys := keys_of(worker):
            yield Finding("ok", "worker.keys", f"worker {worker['worker']} {keys}")
    configs = store.queue_configs(sorted({queue for worker in workers for queue in worker["queues"]}))
    for queue, config in configs.items():
        said = read_map(config)
        of = [worker for worker in workers if queue in worker["queues"]]
        signed = [worker["worker"] for worker in of if worker.get("requires_signed")]
        if signed and not said.get("signers"):
            yield Finding(
                "warning",
                "queue.unsigned",
                f"worker {signed[0]} takes signed runs only, and queue {queue} takes others too: they fail there",
                f"have them refused at submission: launch-worker queues set {queue} --signer '*'",
            )
        with contextlib.suppress(InputError):
            key_id = read_public(str(said["sealing_key"]), "seal").id if said.get("sealing_key") else ""
            lacking = [worker["worker"] for worker in of if key_id and key_id not in worker["sealing_keys"]]
            if lacking:
                yield Finding(
                    "warning",
                    "queue.unopened",
                    f"worker {lacking[0]} cannot open the secrets of runs of queue {queue}: it has no key {key_id}",
                    "put the file that launch-worker keys new --for-queue has made into its LAUNCH_SEALING_KEYS, and "
                    "start it anew",
                )
