"""requirements/*.txt fit pyproject.toml and name no index, which is told without one; and what `make audit` says."""

from __future__ import annotations

import re
from typing import Any

import pytest
from packaging.requirements import Requirement

from tools.audit import NOT_REACHED, verdict
from tools.requirements import FILES, PROJECT, misfits, misfits_of, path_of, read_pins, wanted

HASH = "--hash=sha256:" + "0" * 64
VIA = "    # via launch-worker (pyproject.toml)\n"


@pytest.mark.parametrize("name", FILES)
def test_the_file_fits_pyproject(name: str) -> None:
    assert misfits_of(name) == [], "write the files anew: make requirements"


@pytest.mark.parametrize("name", FILES)
def test_the_file_holds_no_address(name: str) -> None:
    assert not re.search(r"://|--(index|extra|find)|@ ", path_of(name).read_text())


def test_the_build_needs_nothing_that_the_file_for_it_has_not() -> None:
    names = {requirement.name for requirement in wanted(FILES["build"])}
    assert {Requirement(text).name for text in PROJECT["build-system"]["requires"]} <= names


def test_a_missing_version_is_told() -> None:
    assert misfits([], [Requirement("celery>=5.7")], [])[0] == "nothing for celery>=5.7 (Python 3.11 on x86_64)"


def test_a_version_that_no_longer_fits_is_told() -> None:
    pins = read_pins(f"celery==5.7.0 \\\n    {HASH}\n{VIA}")
    assert misfits(pins, [Requirement("celery>=5.8")], []) == ["celery==5.7.0 for celery>=5.8"]
    assert misfits(pins, [Requirement("celery>=5.7")], []) == []


def test_a_version_for_some_pythons_only_is_told() -> None:
    pins = read_pins(f"numpy==2.4.6 ; python_full_version < '3.12' \\\n    {HASH}\n")
    told = misfits(pins, [Requirement("numpy")], [])
    assert "nothing for numpy (Python 3.12 on aarch64)" in told
    assert not any("3.11" in sentence for sentence in told)


def test_a_package_that_is_no_longer_asked_for_is_told() -> None:
    pins = read_pins(f"celery==5.7.0 \\\n    {HASH}\n{VIA}")
    assert misfits(pins, [], []) == ["celery, which pyproject.toml does not ask for"]


def test_two_versions_in_two_files_are_told() -> None:
    one, other = (read_pins(f"rich=={version} \\\n    {HASH}\n") for version in ("14", "15"))
    assert misfits(one, [], other) == ["rich==14, and 15 in the file that it is made like"]


@pytest.mark.parametrize(
    "text",
    [
        "--index-url https://packages.example/simple\n",
        f"rich==15 \\\n    {HASH}\n--find-links wheels\n",
        "rich==15\n",
        f"rich>=15 \\\n    {HASH}\n",
        f"rich @ https://packages.example/rich.whl \\\n    {HASH}\n",
        "rich==15 \\\n    --hash=md5:0\n",
    ],
)
def test_a_line_that_is_no_version_with_hashes_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="neither a version nor its hashes"):
        read_pins(text)


def looked_up(name: str, *vulnerabilities: str) -> dict[str, Any]:
    return {"name": name, "version": "1", "vulns": [{"id": known, "fix_versions": ["2"]} for known in vulnerabilities]}


def test_an_audit_that_could_ask_nothing_does_not_pass() -> None:
    assert verdict([{"name": "rich", "skip_reason": "not found"}]) == (2, [NOT_REACHED])
    assert verdict([]) == (2, [NOT_REACHED])


def test_an_audit_names_each_vulnerability_and_each_package_that_it_could_not_ask_for() -> None:
    skipped = {"name": "rich", "skip_reason": "not found"}
    assert verdict([looked_up("celery")]) == (0, ["1 of 1 packages looked up, 0 known vulnerabilities"])
    assert verdict([looked_up("celery"), skipped])[0] == 2
    code, lines = verdict([looked_up("celery", "CVE-1"), skipped])
    assert code == 1
    assert lines == [
        "celery 1: CVE-1, mended in 2",
        "rich: not looked up: not found",
        "1 of 2 packages looked up, 1 known vulnerabilities",
    ]
