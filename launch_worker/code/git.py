"""Runs one git command: hardened, with little of the worker's environment, and ended when it takes too long."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from launch_worker.code.patience import Patience
from launch_worker.errors import CodeError
from launch_worker.runners.process import child
from launch_worker.runners.process.child import Bounds

#: Variables of the worker's environment that git, ssh and an operator's credential helper get. They get no others.
INHERITED = (
    *("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"),
    *("SSH_AUTH_SOCK", "GIT_SSH", "GIT_SSH_COMMAND", "GIT_SSH_VARIANT", "GIT_ASKPASS"),
    *("GIT_SSL_CAINFO", "GIT_SSL_CAPATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "CURL_CA_BUNDLE"),
    *("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"),
    *("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM"),
    *("GIT_CONFIG_COUNT", "GIT_CONFIG_KEY_", "GIT_CONFIG_VALUE_"),
)
REMOTE = "https:ssh"
#: Protocol for repositories of the worker's own cache only.
LOCAL = "file"

_CONFIG = (
    "core.hooksPath=/dev/null",
    "core.useReplaceRefs=false",
    "init.defaultObjectFormat=sha1",
    "init.defaultRefFormat=files",
    "core.fsmonitor=false",
    "submodule.recurse=false",
    "fetch.recurseSubmodules=false",
    "advice.detachedHead=false",
    # A fetch that is cut off leaves all of its objects or none.
    "fetch.unpackLimit=1",
    "gc.auto=0",
    "maintenance.auto=false",
)
_MOST_OUTPUT = 64 << 20
#: Bytes of memory of a git process: large repositories need a tenth of it, a hostile one would take all.
MEMORY_BYTES = 2 << 30


class GitError(Exception):
    """A git command failed; the text is the end of its output."""


@dataclass(frozen=True)
class Git:
    """Git for one attempt. `marks` are put into the environment of its processes: they identify leftovers."""

    patience: Patience
    worker_env: Mapping[str, str]
    marks: Mapping[str, str] = field(default_factory=dict)

    def run(
        self,
        *arguments: str,
        folder: Path,
        repository: str = "",
        protocols: str = "",
        file_bytes: int = 0,
        consume: Callable[[bytes], object] | None = None,
    ) -> str:
        """Run a command. Returns its output. Raises GitError, CodeError and StartGivenUpError.

        `repository` is in `folder`. Only `protocols` (REMOTE or LOCAL) may be used, whatever the configuration says.
        `file_bytes` bounds each file that git writes. With `consume` the output goes there instead, of any length.
        """
        options = [word for setting in _CONFIG for word in ("-c", setting)]
        if repository:
            # Named, so that git takes none from a folder above, or from the code itself.
            options.append(f"--git-dir={repository}")
        printed = bytearray()

        def keep(data: bytes) -> None:
            printed.extend(data)
            if len(printed) > _MOST_OUTPUT:
                raise CodeError("git printed more than any repository needs; the repository is refused")

        try:
            ended = child.run(
                ["git", *options, *arguments],
                cwd=folder,
                env=self._environment() | {"GIT_ALLOW_PROTOCOL": protocols or "none"},
                check=self.patience.check,
                on_output=consume or keep,
                bounds=Bounds(memory_bytes=MEMORY_BYTES, file_bytes=file_bytes),
            )
        except FileNotFoundError:
            text = "git is not installed on this worker; install it there (and ssh for ssh URLs), or use --upload"
            raise CodeError(text, worker_fault=True) from None
        if ended.status:
            raise GitError(clean(ended.said))
        return printed.decode("utf-8", "surrogateescape")

    def _environment(self) -> dict[str, str]:
        env = {
            name: value
            for name, value in self.worker_env.items()
            if name in INHERITED or name.rstrip("0123456789") in INHERITED
        }
        if "GIT_SSH" not in env:
            env.setdefault("GIT_SSH_COMMAND", "ssh -oBatchMode=yes")
        # LC_ALL: git's sentences are parsed.
        return {**env, **self.marks, "LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"}


def clean(said: bytes) -> str:
    """The last lines that git said, without progress, escapes and without logins in URLs."""
    text = said.decode("utf-8", "replace").replace("\r", "\n")
    lines = ["".join(char if char.isprintable() else "?" for char in line).strip() for line in text.split("\n")]
    lines = [re.sub(r"(?<=://)[^/@\s]*@", "***@", line)[:500] for line in lines if line]
    return "\n".join(lines[-8:])


_MEANINGS = (
    (r"no space left|disk quota", "the worker's disk is full: {url} could not be fetched"),
    (
        r"out of memory|cannot allocate memory",
        f"git needs more than {MEMORY_BYTES >> 30} GiB of memory for {{url}}, which no worker gives it; send what the "
        "job needs with --upload",
    ),
    (
        # The process that writes the pack reports its end by a signal only, and not in every version.
        r"file too large|died of signal 25|invalid index-pack output",
        "{url} has more bytes than this worker takes (20 times LAUNCH_UPLOAD_BYTES), or its server sends no pack: name "
        "a branch or a full commit, or send what the job needs with --upload",
    ),
    (
        r"authentication failed|could not read (username|password)|terminal prompts disabled|permission denied \(|"
        r"error: 40[13]|access denied|denied to",
        "{url} refused the login, or is not there: give the worker's user a credential helper of git or an ssh key "
        "that may read it",
    ),
    (
        r"host key verification failed",
        "the worker does not know the ssh host key of {url}: add it to the known_hosts of the worker's user",
    ),
    (
        r"certificate|self.signed",
        "the TLS certificate of {url} was not accepted: mend it, or name its authority to the worker in GIT_SSL_CAINFO",
    ),
    (
        r"transport '.*' not allowed|protocol .*(not allowed|not supported|disabled)",
        "{url} led to a protocol that is not allowed: only https and ssh are",
    ),
    (
        r"could ?n.t resolve|could not resolve|failed to connect|connection (refused|timed out|reset|closed)|"
        r"network is unreachable|no route to host|couldn.t connect|gnutls|openssl|ssl_|empty reply",
        "{url} could not be reached from this worker: check the host and the network",
    ),
    (
        r"not found|does not appear to be a git repository|does not exist|error: 404",
        "there is no repository {url}, or the worker may not see it: check the URL",
    ),
)


def explain(error: GitError, url: str) -> CodeError:
    """The failure of a fetch as one sentence, with git's own words as the detail."""
    said = str(error)
    # The name of a repository may look like an error.
    words = said.replace(url, "")
    for pattern, sentence in _MEANINGS:
        if re.search(pattern, words, re.IGNORECASE):
            return CodeError(sentence.format(url=url), detail=said, worker_fault=sentence is _MEANINGS[0][1])
    last = said.splitlines()[-1] if said else "it said nothing"
    return CodeError(f"git could not fetch {url}: {last}", detail=said)
