"""Reads and checks where git may fetch code from, `GIT_URL[@REF]`, before git sees any of it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from launch_worker.errors import InputError

MAX_URL = 2000
MAX_REF = 250

# None of these can begin with a dash: ssh and git would take it for an option.
_USER = r"[A-Za-z0-9_][A-Za-z0-9._~%+-]*"
_HOST = r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.]+\])"
_PATH = r"[A-Za-z0-9_.~%+,=:/-]*[A-Za-z0-9_.~%+,=:-]/*"
_URL = re.compile(rf"(?P<scheme>https|ssh)://(?:(?P<user>{_USER})@)?{_HOST}(?::(?P<port>[0-9]{{1,5}}))?/{_PATH}")
_SCP_LIKE = re.compile(rf"{_USER}@{_HOST}:(?!-){_PATH}")
_HELPER = re.compile(r"[A-Za-z0-9+.-]*::")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(?=://)")
_DOTS = re.compile(r"[/:]\.\.?(/|$)")
#: Encoded control characters, which a credential helper would read as lines of its own, and broken encodings.
_BAD_ENCODING = re.compile(r"%(?:[01][0-9A-Fa-f]|7[Ff]|(?![0-9A-Fa-f]{2}))")
#: Access tokens in the place of a user name.
_TOKEN = re.compile(r"gh[a-z]_|github_pat_|gl[a-z]+-|.{33}", re.IGNORECASE)
_FORMS = "use https://HOST/PATH, ssh://USER@HOST/PATH or USER@HOST:PATH"
_WHY_NOT = {
    "http": "http is neither encrypted nor authenticated; use https",
    "git": "the git protocol is neither encrypted nor authenticated; use https or ssh",
    "file": "a path is of one machine only; push it to a server, or send the folder with --upload",
}


@dataclass(frozen=True)
class GitSource:
    """A repository, and the branch, tag or commit that is meant; '' is the default branch."""

    url: str
    ref: str = ""


def parse_git_url(text: str) -> GitSource:
    """Split and check `GIT_URL[@REF]`. Raises InputError, whose text shows no password.

    The ref begins at the first @ of the path, since tags as `pkg@1.0` are common; an @ of the path itself is `%40`.
    """
    if not isinstance(text, str) or not text:
        raise InputError(f"the git URL is empty; {_FORMS}")
    head = _SCHEME.match(text)
    # The path begins behind the authority, or behind the colon of USER@HOST:PATH.
    start = text.find("/", head.end() + 3) if head else text.find(":", text.find("@") + 1)
    at = text.find("@", start) if start >= 0 else -1
    if at < 0:
        return GitSource(check_git_url(text))
    return GitSource(check_git_url(text[:at]), _check_ref(text[at + 1 :]))


def check_git_url(url: str) -> str:
    """The URL, if git may be given it; else InputError."""
    if len(url) > MAX_URL:
        raise InputError(f"the git URL has {len(url):,} characters; at most {MAX_URL:,} are allowed")
    if _HELPER.match(url) or url.startswith("-"):
        raise InputError(f"git URL {_shown(url)} would run a program or an option of git; {_FORMS}")
    head = _SCHEME.match(url)
    scheme = head[0].lower() if head else ""
    if head and scheme not in ("https", "ssh"):
        why = _WHY_NOT.get(scheme, f"git may not use {scheme} here; {_FORMS}")
        raise InputError(f"git URL {_shown(url)} is refused: {why}")
    authority = url[head.end() + 3 :].partition("/")[0] if head else url
    if ":" in authority.rpartition("@")[0]:
        raise InputError(
            "the git URL holds a password, which would be kept in the run's record; leave it out, and give the workers "
            "a credential helper of git or an ssh key"
        )
    if not head and ("@" not in url or "/" in url.partition("@")[0]):
        raise InputError(f"git URL {_shown(url)} is refused: {_WHY_NOT['file']}; or {_FORMS}")
    if head:
        url = scheme + url[head.end() :]
    match = _URL.fullmatch(url) if head else _SCP_LIKE.fullmatch(url)
    if match is None or _BAD_ENCODING.search(url) or _DOTS.search(url):
        raise InputError(f"git URL {_shown(url)} is not one; {_FORMS}, without spaces, quotes, .., ? and #")
    if head and match["port"] and not 0 < int(match["port"]) < 65536:
        raise InputError(f"git URL {_shown(url)} has no valid port; {_FORMS}")
    if scheme == "https" and match["user"] and _TOKEN.match(match["user"]):
        raise InputError(
            "the git URL holds what looks like an access token, which would be kept in the run's record; leave it out, "
            "and give the workers a credential helper of git"
        )
    return url


def submodule_url(url: str, *, parent: str) -> str:
    """The absolute URL of a submodule: `../x` and `./x` count from the URL of the repository it is in."""
    if not url.startswith(("./", "../")):
        return check_git_url(url)
    start = parent.index("/", parent.index("://") + 3) + 1 if "://" in parent else parent.index(":") + 1
    head, parts = parent[:start], parent[start:].rstrip("/").split("/")
    rest = url
    while rest.startswith(("./", "../")):
        step, _, rest = rest.partition("/")
        if step == "..":
            if not parts:
                raise InputError(f"git URL {_shown(url)} leads out of its host; mend it in .gitmodules")
            parts.pop()
    return check_git_url(head + "/".join([*parts, rest]))


def _check_ref(ref: str) -> str:
    """The rules of `git check-ref-format`, and no leading dash."""
    if not ref:
        raise InputError("the git ref after @ is empty; name a branch, a tag or a commit, or leave out the @")
    if (
        len(ref) > MAX_REF
        or not ref.isprintable()
        or ref == "@"
        or re.search(r"^[-/+]|[ ~^:?*\[\\]|\.\.|@\{|//|/$|\.$|(^|/)\.|\.lock(/|$)", ref)
    ):
        shown = repr(ref[:60]) + ("…" if len(ref) > 60 else "")
        raise InputError(f"git ref {shown} is not a name that git allows; name a branch, a tag or a commit")
    return ref


def _shown(url: str) -> str:
    """For messages: nothing that may be a password."""
    cut = url.partition("?")[0]
    cut = cut if len(cut) <= 100 else cut[:100] + "…"
    _, at, tail = cut.rpartition("@")
    return ascii(f"***@{tail}" if at else cut)
