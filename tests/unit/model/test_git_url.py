"""Git URLs: three forms are taken, everything that could run, read or leak something is refused before git sees it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch_worker.errors import InputError
from launch_worker.model.git_url import GitSource, parse_git_url, submodule_url


def refused(text: str) -> str:
    with pytest.raises(InputError) as error:
        parse_git_url(text)
    said = str(error.value)
    assert "\n" not in said, "one sentence"
    assert len(said) < 500
    said.encode()
    return said


@pytest.mark.parametrize(
    ("text", "url", "ref"),
    [
        ("https://github.com/o/r", "https://github.com/o/r", ""),
        ("https://github.com/o/r.git@main", "https://github.com/o/r.git", "main"),
        ("HTTPS://h/o/r@v1", "https://h/o/r", "v1"),
        ("https://me@dev.example.com:8443/o/_git/r@feature/x", "https://me@dev.example.com:8443/o/_git/r", "feature/x"),
        ("https://me@h/r", "https://me@h/r", ""),
        ("https://h/o/r@pkg@1.0.0", "https://h/o/r", "pkg@1.0.0"),
        ("https://h/o/r@@scope/pkg@1.0", "https://h/o/r", "@scope/pkg@1.0"),
        ("https://h/o/r%40x@1" + "a" * 39, "https://h/o/r%40x", "1" + "a" * 39),
        ("https://[::1]:8443/r@main", "https://[::1]:8443/r", "main"),
        ("ssh://git@h/o/r@main", "ssh://git@h/o/r", "main"),
        ("ssh://git@h:2222/~me/r", "ssh://git@h:2222/~me/r", ""),
        ("ssh://git@[fe80::1]/r@x", "ssh://git@[fe80::1]/r", "x"),
        ("git@github.com:o/r", "git@github.com:o/r", ""),
        ("git@github.com:o/r.git@v1.2", "git@github.com:o/r.git", "v1.2"),
        ("git@host_alias:/abs/r@refs/pull/3/head", "git@host_alias:/abs/r", "refs/pull/3/head"),
        ("git@h:r@pkg@1", "git@h:r", "pkg@1"),
        ("https://h/r@été", "https://h/r", "été"),
    ],
)
def test_the_three_forms_are_split_at_the_right_place(text: str, url: str, ref: str) -> None:
    assert parse_git_url(text) == GitSource(url, ref)


@pytest.mark.parametrize(
    "text",
    [
        *("", "-x", "--upload-pack=touch /tmp/x", "-oProxyCommand=x@h:r", "@", "@main", "x", "o/r", "main@"),
        *("/etc", "./r", "../r", "~/r", "C:\\r", "C:/r", "h:r", "file:r", "file:///etc", "FILE:///etc", "file://h/x"),
        *("ext::sh -c touch% /tmp/x", "ext::x", "fd::17", "https::https://h/r", "::x", "https://ext::x@h/r"),
        *("http://h/r", "git://h/r", "ftp://h/r", "rsync://h/r", "git+ssh://h/r", "javascript://h/r", "://h/r"),
        *("https://", "https://h", "https://h/", "https:///r", "https://-h/r", "https://h:/r", "https://h:99999/r"),
        *("https://h:0/r", "https://h:-1/r", "https://@h/r", "https://h//", "ssh://-oProxyCommand=x/r"),
        *("ssh://-x@h/r", "-x@h:r", "git@-h:r", "git@h:-r", "git@h:", "git@h", "@h:r", "a/b@h:r", "git@h:r;x"),
        *("https://h/r?x=1", "https://h/r#x", "https://h/a b", "https://h/r\n", "https://h/r\x00", "https://h/\tr"),
        *("https://h/r%0ahost=x", "https://h/%00", "https://h/%7F", "https://h/%", "https://h/%zz", "https://h\\x/r"),
        *("https://h/'r'", 'https://h/"r"', "https://h/$(x)", "https://h/`x`", "https://h/é", "https://h/r\udc80"),
        "https://h/" + "r" * 3000,
    ],
)
def test_everything_else_is_refused_with_one_sentence(text: str) -> None:
    """W11."""
    refused(text)


@pytest.mark.parametrize(
    "ref",
    [
        *("", "-x", "--force", "a b", "a..b", "..", ".", ".a", "a/.b", "a.", "a.lock", "a.lock/b", "a~1", "a^", "a:b"),
        *(
            "a?",
            "a*",
            "a[",
            "a\\b",
            "@",
            "a@{1}",
            "/a",
            "a/",
            "a//b",
            "+a",
            "a\n",
            "a\x00",
            "a\x7f",
            "a\u202e",
            "a\udc80",
        ),
        "a" * 251,
    ],
)
@pytest.mark.parametrize("url", ["https://h/r", "git@h:r"])
def test_a_ref_that_git_would_not_take_is_refused(url: str, ref: str) -> None:
    assert "ref" in refused(f"{url}@{ref}")


@pytest.mark.parametrize(
    "text",
    [
        *("https://me:hunter2@h/r", "https://me:hunter2@h/r@main", "ssh://me:hunter2@h/r", "https://:hunter2@h/r"),
        *("me:hunter2@h:r", "me:hunter2@h/r", "http://me:hunter2@h/r", "https://me:hun/ter2@h/r", "ftp://hunter2@h/r"),
        *("https://ghp_hunter2@h/r", "https://glpat-hunter2@h/r", f"https://{'hunter2' * 6}@h/r", "hunter2@h"),
        *(
            "https://me:hunter2@h",
            "https://hunter2:@h/r",
            "https://me:hunter2@h/r?x",
            "x://me:hunter2@h/r",
            "https://h/r?t=hunter2",
        ),
    ],
)
def test_a_password_is_refused_and_never_shown(text: str) -> None:
    assert "hunter2" not in refused(text)


@given(st.text(max_size=40))
def test_no_text_at_all_is_more_than_refused(text: str) -> None:
    try:
        source = parse_git_url(text)
    except InputError:
        return
    assert source.url.startswith(("https://", "ssh://")) or "@" in source.url.partition(":")[0]
    assert not source.ref.startswith("-")


@pytest.mark.parametrize(
    ("url", "parent", "absolute"),
    [
        ("../b", "https://h/o/a", "https://h/o/b"),
        ("../../p/b.git", "https://h/o/a.git/", "https://h/p/b.git"),
        ("./b", "https://h/o/a", "https://h/o/a/b"),
        ("../b", "https://me@h:1/a", "https://me@h:1/b"),
        ("../b", "git@h:o/a", "git@h:o/b"),
        ("../b", "git@h:a", "git@h:b"),
        ("../b", "ssh://git@h/o/a", "ssh://git@h/o/b"),
        ("https://x/y", "git@h:o/a", "https://x/y"),
    ],
)
def test_a_submodules_url_counts_from_its_parents(url: str, parent: str, absolute: str) -> None:
    assert submodule_url(url, parent=parent) == absolute


@pytest.mark.parametrize(
    "url",
    ["../../b", "../../../b", "file:///x", "ext::x", "/x", "-x", "../-x/../..", "", "../b c", "../b?x", "http://h/x"],
)
def test_a_submodules_url_cannot_leave_its_host_or_protocols(url: str) -> None:
    with pytest.raises(InputError):
        submodule_url(url, parent="https://h/a")
