"""Checks at the claim that a trusted key has signed the run, where the worker or the run's queue asks for that."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

from launch_worker.agent.outage import Outage
from launch_worker.config_folder import sealing_key_folder
from launch_worker.errors import InputError
from launch_worker.model.derived import check_derived
from launch_worker.model.run import Record
from launch_worker.model.spec import RunSpec
from launch_worker.queues.read import signers_of
from launch_worker.settings import Settings
from launch_worker.store.store import Store
from launch_worker.trust.signatures import check_library, is_signed_by, read_signature
from launch_worker.trust.trusted import TrustedKey, read_trusted, why_not_signer


def why_unchecked(queue_config: str) -> str:
    """Why a worker leaves a queue alone whose runs must be signed, as a clause; '' where it can check signatures."""
    try:
        is_asked = bool(signers_of(queue_config))
    except InputError:
        return ""  # the runs of a damaged one fail, whoever claims them
    if not is_asked or find_spec("nacl") is not None:
        return ""
    return "it takes signed runs only, and this worker cannot check signatures without PyNaCl (launch_worker[signing])"


def describe_trust(settings: Settings) -> dict[str, Any]:
    """What a worker tells of keys: whether it takes signed runs only, and ids of those by which it opens secrets."""
    keys: tuple[str, ...] = ()
    folder = settings.sealing_keys or sealing_key_folder(os.environ)
    if folder is not None and folder.exists():
        # Imported where there are keys: it imports PyNaCl.
        from launch_worker.trust.secrets import known_keys

        keys = known_keys(folder)
    return {
        "requires_signed": settings.requires_signed,
        "has_own_trusted_keys": settings.trusted_keys is not None,
        "sealing_keys": keys,
    }


class Signatures:
    """Says which runs need a signature, and refuses those that have no good one. Raises SettingsError when made."""

    def __init__(self, settings: Settings, *, store: Store, outage: Outage) -> None:
        self._settings = settings
        self._store = store
        self._outage = outage
        if settings.trusted_keys is not None:
            read_trusted(settings.trusted_keys)
        if settings.requires_signed:
            check_library()

    def needed(self, record: Record) -> bool:
        """Whether the claimed run must be signed: this worker or its queue asks for it."""
        return self._settings.requires_signed or bool(signers_of(record.queue_config))

    def check(self, record: Record, spec: RunSpec) -> None:
        """Raise InputError, with the reason for people, unless a trusted key has signed what this record executes."""
        signers = signers_of(record.queue_config)
        if not record.signature:
            whose = f"queue {record.queue}" if signers else "its worker"
            made = "; runs of schedules and sweeps are signed by nobody" if record.sweep else ""
            raise InputError(
                f"{whose} takes signed runs only, and this run is not signed{made}; see: launch-worker keys"
            )
        signature = read_signature(record.signature)
        key = self._trusted(signature.key_id)
        why = why_not_signer(key, signature.key_id, signers=signers, queue=record.queue)
        if key is None or why:
            raise InputError(f"the run was signed with key {why}")
        if record.user and not key.is_server:
            raise InputError(
                f"the run names user {record.user}, which only a server can prove, and key {key.name} is no server's"
            )
        if not is_signed_by(key.public, signature, record.id, record.spec, user=record.user):
            raise InputError("the run is not as it was signed: its id, spec or user was changed since")
        if record.created_at > signature.expires_us:
            raise InputError("the run was submitted when its signature had expired; submit it anew")
        check_derived(record, spec)

    def _trusted(self, key_id: str) -> TrustedKey | None:
        if self._settings.trusted_keys is not None:
            return read_trusted(self._settings.trusted_keys).get(key_id)
        text = self._outage.repeat(lambda: self._store.trusted_key(key_id))
        key = TrustedKey.of_text(text) if text else None
        return key if key is not None and key.id == key_id else None
