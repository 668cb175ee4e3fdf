"""Keys in files and as texts: what is no key, or can be read by others, is refused with a sentence."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from launch_worker.errors import InputError, SettingsError
from launch_worker.trust.keys import Kind, new_private, read_private, read_public, write_private
from launch_worker.trust.trusted import TrustedKey, read_trusted


@pytest.mark.parametrize("kind", ["sign", "seal"])
def test_a_key_survives_its_file_which_its_user_alone_can_read(kind: Kind, tmp_path: Path) -> None:
    key, path = new_private(kind), tmp_path / "folder" / "a.key"
    write_private(path, key)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_private(path, kind) == key
    assert read_public(str(key.public), kind) == key.public
    with pytest.raises(InputError, match="is there already"):
        write_private(path, key)


def test_a_file_that_others_can_read_or_that_has_no_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    write_private(path, new_private("sign"))
    with pytest.raises(SettingsError, match="has no private sealing key"):
        read_private(path, "seal")
    path.chmod(0o644)
    with pytest.raises(SettingsError, match="chmod 600"):
        read_private(path, "sign")
    # As Kubernetes makes a file of a Secret for the group of a pod; a user's own is for the user alone.
    path.chmod(0o440)
    if os.geteuid() == 0:
        assert read_private(path, "sign")
        os.chown(path, 0, 54321)
    with pytest.raises(SettingsError, match="chmod 600"):
        read_private(path, "sign")
    with pytest.raises(SettingsError, match="cannot be read"):
        read_private(tmp_path / "none.key", "sign")


@pytest.mark.parametrize("text", ["", "sign:", "sign:abc", "x" * 48, "sign:" + "A" * 44, "sign:" + "é" * 43])
def test_a_text_that_is_no_public_key_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is written as sign:"):
        read_public(text, "sign")


def test_neither_a_private_key_nor_one_of_another_kind_passes_for_a_public_one(tmp_path: Path) -> None:
    write_private(tmp_path / "a", new_private("sign"))
    text = (tmp_path / "a").read_text()
    with pytest.raises(InputError, match="private signing key, which nobody else may see") as refusal:
        read_public(text, "sign")
    assert text.split(":")[1].strip() not in str(refusal.value)
    with pytest.raises(InputError, match="this is a sealing key"):
        read_public(str(new_private("seal").public), "sign")


def test_a_workers_own_file_names_the_keys_that_it_trusts(tmp_path: Path) -> None:
    ada, server = new_private("sign").public, new_private("sign").public
    path = tmp_path / "trusted"
    path.write_text(f"# ours\n{ada} ada\n\n{server} front server # the door\n")
    path.chmod(0o644)
    assert read_trusted(path) == {ada.id: TrustedKey(ada, "ada"), server.id: TrustedKey(server, "front", True)}


@pytest.mark.parametrize("line", ["ada", "sign:abc ada", "{key} ada serve", "{key}", "{key} a\x1bda"])
def test_a_line_of_that_file_that_is_wrong_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "trusted"
    path.write_text(f"\n{line.format(key=new_private('sign').public)}\n")
    with pytest.raises(SettingsError, match="LAUNCH_TRUSTED_KEYS: line 2 of"):
        read_trusted(path)
    path.chmod(0o666)
    read_trusted.cache_clear()
    with pytest.raises(SettingsError, match="chmod o-w"):
        read_trusted(path)
