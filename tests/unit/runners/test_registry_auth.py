"""The credential for an image is found as docker finds it, and no sentence has the secret in it."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from launch_worker.errors import StartError
from launch_worker.runners.container import registry_auth
from launch_worker.runners.container.registry_auth import Credential, Credentials, registry_of

SECRET = 'hunter2"ß'


def entry(user: str = "robot", secret: str = SECRET) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{secret}".encode()).decode()}


def credentials(folder: Path, content: Any, *, name: str = "") -> Credentials:
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "config.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return Credentials(folder)


def helper(folder: Path, script: str) -> None:
    program = folder / "docker-credential-it"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


@pytest.mark.parametrize(
    ("image", "registry"),
    [
        ("python", "docker.io"),
        ("team/train:1", "docker.io"),
        ("index.docker.io/team/train", "docker.io"),
        ("localhost/train", "localhost"),
        ("r.example.org:5000/train@sha256:12", "r.example.org:5000"),
    ],
)
def test_an_images_registry_is_that_of_docker(image: str, registry: str) -> None:
    assert registry_of(image) == registry
    with pytest.raises(StartError, match="cannot be pulled"):
        registry_of("a.-/train")


@pytest.mark.parametrize("key", ["r.example.org", "https://r.example.org", "https://r.example.org/v1/"])
def test_a_login_is_found_by_its_registry_however_that_is_written(tmp_path: Path, key: str) -> None:
    found = credentials(tmp_path, {"auths": {"other.example.org": entry("x"), key: entry()}}).find("r.example.org")
    assert (found.account, found.login["password"]) == ("robot", SECRET)
    assert str(found) == "from registry r.example.org as account 'robot'"
    assert SECRET not in repr(found)


def test_docker_hub_is_found_by_the_url_that_docker_login_writes(tmp_path: Path) -> None:
    found = credentials(tmp_path, {"auths": {"https://index.docker.io/v1/": entry()}}).find("docker.io")
    assert found.account == "robot"
    assert found.login["serveraddress"] == "https://index.docker.io/v1/"


def test_other_forms_of_a_login_are_read(tmp_path: Path) -> None:
    plain = {"username": "robot", "password": SECRET}
    made = credentials(tmp_path, {"auths": {"a.b": plain, "c.d": {"identitytoken": SECRET}, "e.f": {}}})
    assert made.find("a.b").login["password"] == SECRET
    assert (made.find("c.d").account, made.find("c.d").login["identitytoken"]) == ("a token", SECRET)
    assert (made.find("e.f"), made.find("none.of.them")) == (Credential("e.f"), Credential("none.of.them"))


def test_no_file_is_no_login_and_a_named_credential_that_is_not_there_is_said(tmp_path: Path) -> None:
    assert str(Credentials(tmp_path).find("a.b")) == "from registry a.b without a login"
    with pytest.raises(
        StartError, match=rf"no registry credential 'team'.* docker --config {tmp_path}/team login a\.b"
    ):
        Credentials(tmp_path).find("a.b", name="team")
    made = credentials(tmp_path, {"auths": {"a.b": entry("of team")}}, name="team")
    assert made.find("a.b", name="team").account == "of team"
    assert not made.find("a.b").login, "a queue's credential is that queue's only"


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[]", '"x"', {"auths": [1]}, {"auths": {"a.b": SECRET}}, {"auths": {"a.b": {"auth": "hunter2"}}}),
        *({"auths": {"a.b": {"auth": base64.b64encode(b"hunter2").decode()}}}, {"auths": {"a.b": {"auth": 7}}}),
    ],
)
def test_a_damaged_file_is_one_sentence_without_a_part_of_the_secret(tmp_path: Path, content: Any) -> None:
    with pytest.raises(StartError, match=r"config\.json are not of the form of docker's config\.json") as caught:
        credentials(tmp_path, content).find("a.b")
    assert "hunter2" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    with pytest.raises(StartError, match=r"in .*config\.json cannot be read: Is a directory"):
        Credentials(tmp_path).find("a.b")


def test_a_file_of_dockers_own_that_cannot_be_read_keeps_nobody_from_public_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    credentials(tmp_path, "{")
    assert Credentials(None).find("a.b") == Credential("a.b")
    credentials(tmp_path, {"auths": {"a.b": entry()}})
    assert Credentials(None).find("a.b").account == "robot"
    monkeypatch.delenv("DOCKER_CONFIG")
    monkeypatch.delenv("HOME")
    assert Credentials(None).folder.name == ".docker"


def test_a_credential_helper_is_asked_as_docker_asks_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    made = credentials(tmp_path, {"credHelpers": {"a.b": "it"}, "auths": {"c.d": entry()}})
    answer = json.dumps({"Username": "u", "Secret": SECRET})
    helper(tmp_path, f"""[ "$1 $(cat)" = "get a.b" ] && cat <<'END'\n{answer}\nEND""")
    assert (made.find("a.b").account, made.find("a.b").login["password"]) == ("u", SECRET)
    assert made.find("c.d").account == "robot"
    helper(tmp_path, """echo '{"Username": "<token>", "Secret": "t"}'""")
    assert made.find("a.b").login["identitytoken"] == "t"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exit 3", r"has failed for registry a\.b \(exit code 3\)"),
        ("echo hunter2; echo hunter2 >&2; exit 1", r"exit code 1"),
        ("echo hunter2", "not of the form"),
        ("exec sleep 60", "gave no answer"),
        (None, "is not on this worker's PATH"),
    ],
)
def test_a_credential_helper_that_fails_is_named_and_its_words_are_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], script: str | None, said: str
) -> None:
    monkeypatch.setattr(registry_auth, "_HELPER_S", 0.3)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    if script is not None:
        helper(tmp_path, script)
    with pytest.raises(StartError, match=said) as caught:
        credentials(tmp_path, {"credsStore": "it"}).find("a.b")
    assert "hunter2" not in str(caught.value) + "".join(capfd.readouterr())


def test_a_helper_that_has_none_leaves_it_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    helper(tmp_path, "echo credentials not found in native keychain; exit 1")
    made = credentials(tmp_path, {"credsStore": "it", "auths": {"a.b": entry()}})
    assert made.find("a.b").account == "robot"
    assert not made.find("c.d").login


def test_the_secret_is_cut_from_what_others_say_in_every_form() -> None:
    credential = Credential("r", "robot", {"username": "robot", "password": SECRET})
    pair = base64.b64encode(f"robot:{SECRET}".encode()).decode()
    for text in (SECRET, json.dumps(SECRET), f"Basic {pair}", f"Basic {pair.rstrip('=')}"):
        cut = credential.cut_from(f"got {text}, refused")
        assert "***" in cut
        assert "hunter2" not in cut
        assert pair[:8] not in cut
