"""The form by which a run is submitted says the same as the command line, and begins with an earlier run."""

from __future__ import annotations

import re
from html import unescape

import httpx
import pytest

from launch_worker.ids import RUN_ID
from launch_worker.store.store import Store
from launch_worker.untrusted.text import read_map
from tests.support.arrows import create
from tests.support.http_servers import TestServer
from tests.support.people import OPEN, PRIVATE


def spec_of(store: Store, answer: httpx.Response) -> dict[str, object]:
    """The spec of the run to whose page an answer leads."""
    assert answer.status_code == 303, re.sub(r"<[^>]*>", " ", answer.text)
    run_id = answer.headers["location"].removeprefix("/runs/")
    assert RUN_ID.fullmatch(run_id)
    return read_map(store.get(run_id).spec)


def command_in(page: str) -> str:
    """The command that stands beside the form, as one line."""
    [text] = re.findall(r'<pre class="equal">(.*?)</pre>', page, re.DOTALL)
    return " ".join(unescape(text).replace("\\\n", " ").split())


def value_of(page: str, name: str) -> str:
    """What a field of the form has."""
    found = re.search(rf'<input id="{name}"[^>]* value="([^"]*)"', page) or re.search(
        rf'<textarea id="{name}"[^>]*>\n?([^<]*)</textarea>', page
    )
    assert found is not None, name
    return unescape(found[1])


SAID = {
    "command": "python train.py --name 'a b'",
    "queue": "gpu",
    "name": "vit",
    "tags": "a, b",
    "gpus": "1",
    "cpus": "1.5",
    "memory": "16G",
    "timeout": "2h",
    "retries": "2",
    "priority": "high",
    "env": "A=1\r\nB=x=y\r\n",
    "config": "lr=0.1\nword=adam",
    "grace": "5s",
}


def test_a_form_submits_what_its_command_says(person: httpx.Client, kept: Store) -> None:
    page = person.post("/submit/command", data=SAID).text
    assert command_in(page) == (
        "launch-submit -q gpu --name vit --tag a --tag b --priority high -e A=1 -e B=x=y --config lr=0.1 "
        "--config word=adam --gpus 1 --memory 16G --cpus 1.5 --timeout 2h --grace 5s --retries 2 "
        "-- python train.py --name 'a b'"
    )
    spec = spec_of(kept, person.post("/submit", data=SAID))
    assert spec["command"] == ["python", "train.py", "--name", "a b"]
    assert (spec["env"], spec["config"]) == ({"A": "1", "B": "x=y"}, {"lr": 0.1, "word": "adam"})
    assert (spec["tags"], spec["memory"], spec["timeout_s"], spec["grace_s"]) == (["a", "b"], 16 << 30, 7200.0, 5.0)


@pytest.mark.parametrize(
    ("field", "text", "sentence"),
    [
        ("command", "echo 'open", "The command has a quote that is not closed"),
        ("gpus", "many", "Gpus must be a whole number, not 'many'."),
        ("memory", "much", "Memory 'much' is not a size; write it as 1048576, 512M or 1.5G."),
        ("timeout", "5x", "Timeout '5x' is not a duration"),
        ("queue", "no such!", "Queue 'no such!' is not allowed"),
        ("env", "NAME", "Environment 'NAME' has no value"),
        ("env", "LAUNCH_RUN_ID=x", "Environment variable LAUNCH_RUN_ID is set by the worker"),
        ("retry_on", "killed", "retry"),
        ("cwd", "../up", "Working directory"),
        ("after", "nothing", "After 'nothing' is no run or group"),
    ],
)
def test_a_mistake_is_said_beside_its_field(person: httpx.Client, field: str, text: str, sentence: str) -> None:
    answer = person.post("/submit", data=SAID | {field: text})
    assert answer.status_code == 422
    [said] = re.findall(rf'id="{field}-wrong">([^<]*)<', answer.text)
    assert sentence in unescape(said)
    # What was typed is still there.
    assert value_of(answer.text, "name") == "vit"


def test_an_empty_form_asks_for_a_command_and_is_not_wrong_before(person: httpx.Client) -> None:
    assert 'class="wrong"' not in person.get("/submit").text
    answer = person.post("/submit", data={"command": ""})
    assert answer.status_code == 422
    assert "command-wrong" in answer.text


def test_a_form_that_is_sent_twice_makes_one_run(person: httpx.Client) -> None:
    first, again, changed = (
        person.post("/submit", data={"command": "true", "form": "0123456789abcdef", "name": name}).headers["location"]
        for name in ("a", "a", "b")
    )
    assert first == again != changed


def test_a_form_begins_with_a_run_and_takes_over_its_secrets_by_name(person: httpx.Client, kept: Store) -> None:
    run = create(
        kept,
        name="vit",
        env={"API_TOKEN": "s3cret", "A": "1"},
        memory=16 << 30,
        config={"lr": 0.1},
        retries=1,
        after=(f"{create(kept)}:any",),
    )
    page = person.get("/submit", params={"from": run, "memory": "32G"}).text
    assert "s3cret" not in page
    assert (value_of(page, "memory"), value_of(page, "env"), value_of(page, "config")) == ("32G", "A=1", "lr=0.1")
    assert value_of(page, "after") == ""
    assert '-e "API_TOKEN=$API_TOKEN"' in command_in(page)
    said = {name: value_of(page, name) for name in ("command", "name", "memory", "env", "config", "retries")}
    spec = spec_of(kept, person.post("/submit", data=said | {"from": run, "keep_env": "API_TOKEN"}))
    assert spec["env"] == {"API_TOKEN": "s3cret", "A": "1"}
    assert spec["memory"] == 32 << 30
    spec = spec_of(kept, person.post("/submit", data=said | {"from": run}))
    assert spec["env"] == {"A": "1"}


def test_a_copy_brings_the_content_of_the_requirements_along(person: httpx.Client, kept: Store) -> None:
    files = {"envs/gpu.txt": "-r ../base.txt\n", "base.txt": "numpy\n"}
    first = create(kept, requirements="envs/gpu.txt", requirements_files=files)
    page = person.get(f"/submit?from={first}").text
    assert value_of(page, "requirements") == "envs/gpu.txt"
    said = {"command": "python -c 2", "requirements": "envs/gpu.txt", "from": first}
    assert spec_of(kept, person.post("/submit", data=said))["requirements_files"] == files
    other = person.post("/submit", data=said | {"requirements": "other.txt"})
    assert other.status_code == 422
    assert "must come along" in unescape(other.text)


def test_secrets_of_others_are_not_taken_over(shown: TestServer, kept: Store, tokens: dict[str, str]) -> None:
    run = create(kept, project=OPEN, env={"API_TOKEN": "s3cret"})
    with shown.client(tokens["operator"]) as client:
        client.headers["Accept"] = "text/html"
        page = client.get("/submit", params={"from": run}).text
        assert "Their values are their owner" in unescape(page)
        said = {"command": "env", "project": OPEN, "from": run, "keep_env": "API_TOKEN"}
        assert "env" not in spec_of(kept, client.post("/submit", data=said))


def test_a_copy_of_a_run_with_sealed_secrets_is_submitted_where_they_are_set(person: httpx.Client, kept: Store) -> None:
    first = create(kept, secrets={"TOKEN": f"{'0' * 16}.AAAA"})
    assert " --secret TOKEN " in command_in(person.get(f"/submit?from={first}").text)
    answer = person.post("/submit", data={"command": "true", "from": first})
    assert answer.status_code == 422
    assert "has secrets (TOKEN)" in unescape(answer.text)


def test_only_who_may_submit_there_does(shown: TestServer, kept: Store, tokens: dict[str, str]) -> None:
    hidden = create(kept, project=PRIVATE)
    with shown.client(tokens["viewer"]) as client:
        assert client.get("/submit").status_code == 403
        assert client.post("/submit", data={"command": "true"}).status_code == 403
    with shown.client(tokens["member"]) as client:
        client.headers["Accept"] = "text/html"
        assert client.get("/submit", params={"from": hidden}).status_code == 404
        assert client.post("/submit", data={"command": "true", "from": hidden}).status_code == 404
        answer = client.post("/submit", data={"command": "true", "project": PRIVATE})
        assert answer.status_code == 422
        assert "project-wrong" in answer.text


def test_what_was_typed_is_text(person: httpx.Client) -> None:
    bad = "<script>alert(1)</script>\"'"
    answer = person.post("/submit", data={"command": bad, "name": bad, "queue": bad, "env": bad, "config": bad})
    assert "<script>alert" not in answer.text


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("command", "a\0b"),
        ("cpus", "1e999"),
        ("cpus", "nan"),
        ("gpus", "9" * 5000),
        ("memory", "9" * 400 + "T"),
        ("timeout", "1" * 400),
        ("at", "9999-99-99"),
        ("config", "a=" + "[" * 5000),
        ("values", "=x"),
        ("array", "5-1"),
        ("id", "../x"),
        ("unique", "\x1b"),
        ("uri", "javascript:x"),
        ("mount", "/:/"),
        ("priority", "highest"),
        ("from", "../../x"),
    ],
)
def test_no_text_in_a_field_is_more_than_a_sentence(person: httpx.Client, field: str, text: str) -> None:
    answer = person.post("/submit", data={"command": "true", field: text})
    assert answer.status_code in (404, 422), answer.text
    assert answer.headers["content-type"].startswith("text/html")
