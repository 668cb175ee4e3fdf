"""Runs one git command: hardened, with little of the worker's environment, and ended when it takes too long."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from launch_worker.code.patience import TURN_S, Patience
from launch_worker.errors import CodeError

#: What git, ssh and an operator's credential helper need of the worker's environment. Nothing else reaches them.
INHERITED = (
    *("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"),
    *("SSH_AUTH_SOCK", "GIT_SSH", "GIT_SSH_COMMAND", "GIT_SSH_VARIANT", "GIT_ASKPASS"),
    *("GIT_SSL_CAINFO", "GIT_SSL_CAPATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "CURL_CA_BUNDLE"),
    *("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"),
    *("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM"),
    *("GIT_CONFIG_COUNT", "GIT_CONFIG_KEY_", "GIT_CONFIG_VALUE_"),
)
REMOTE = "https:ssh"
#: Only ever for a repository of the worker's own cache.
LOCAL = "file"

_CONFIG = (
    "core.hooksPath=/dev/null",
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
_LAST_WORDS = 16 << 10
_GRACE_S = 2.0


class GitError(Exception):
    """A git command failed; the text is the end of what it said."""


@dataclass(frozen=True)
class Git:
    """Git for one attempt. `marks` are put into the environment of its processes: by them leftovers are found."""

    patience: Patience
    worker_env: Mapping[str, str]
    marks: Mapping[str, str] = field(default_factory=dict)

    def run(self, *arguments: str, folder: Path, repository: str = "", protocols: str = "") -> str:
        """What the command prints. `repository` is in `folder`. Raises GitError, CodeError and StartGivenUpError.

        Only `protocols` (REMOTE or LOCAL) may be used, whatever the configuration says.
        """
        options = [word for setting in _CONFIG for word in ("-c", setting)]
        if repository:
            # Never one that git finds by itself in a folder above, or that the code brings with it.
            options.append(f"--git-dir={repository}")
        try:
            process = subprocess.Popen(
                ["git", *options, *arguments],
                cwd=folder,
                env=self._environment() | {"GIT_ALLOW_PROTOCOL": protocols or "none"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                # No terminal to ask on; and with its children (ssh, helpers) it is ended as one group.
                start_new_session=True,
            )
        except FileNotFoundError:
            text = "git is not installed on this worker; install it there (and ssh for ssh URLs), or use --upload"
            raise CodeError(text, worker_fault=True) from None
        try:
            out, said = self._watch(process)
        except BaseException:
            _end(process)
            raise
        finally:
            for pipe in (process.stdout, process.stderr):
                assert pipe is not None
                pipe.close()
        if process.returncode:
            raise GitError(clean(said))
        return out.decode("utf-8", "surrogateescape")

    def _environment(self) -> dict[str, str]:
        env = {
            name: value
            for name, value in self.worker_env.items()
            if name in INHERITED or name.rstrip("0123456789") in INHERITED
        }
        if "GIT_SSH" not in env:
            env.setdefault("GIT_SSH_COMMAND", "ssh -oBatchMode=yes")
        # LC_ALL: its sentences are read.
        return {**env, **self.marks, "LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"}

    def _watch(self, process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
        """Read both streams until the process has ended; a helper that stays behind may hold them open for ever."""
        assert process.stdout is not None
        assert process.stderr is not None
        out, said = bytearray(), bytearray()
        with selectors.DefaultSelector() as selector:
            for pipe in (process.stdout, process.stderr):
                selector.register(pipe, selectors.EVENT_READ)
            while True:
                ended = process.poll() is not None
                self.patience.check()
                ready = selector.select(0 if ended else TURN_S) if selector.get_map() else []
                for key, _ in ready:
                    data = os.read(key.fd, 1 << 16)
                    if not data:
                        selector.unregister(key.fileobj)
                    elif key.fileobj is process.stdout:
                        out += data
                    else:
                        said += data
                        del said[:-_LAST_WORDS]
                if len(out) > _MOST_OUTPUT:
                    raise CodeError("git printed more than any repository needs; the repository is refused")
                if ended and not ready:
                    return bytes(out), bytes(said)
                if not selector.get_map() and not ended:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(TURN_S)


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, so that git removes its temporary files; then SIGKILL to what is left of its group."""
    group = process.pid
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
    # The worker is their subreaper: those of the group that lost their parent are its children now.
    until = time.monotonic() + _GRACE_S
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < until:
            if not os.waitpid(-group, os.WNOHANG)[0]:
                time.sleep(0.01)


def clean(said: bytes) -> str:
    """The last lines that git said, without progress, escapes and whatever stands before an @ in a URL."""
    text = said.decode("utf-8", "replace").replace("\r", "\n")
    lines = ["".join(char if char.isprintable() else "?" for char in line).strip() for line in text.split("\n")]
    lines = [re.sub(r"(?<=://)[^/@\s]*@", "***@", line)[:500] for line in lines if line]
    return "\n".join(lines[-8:])


_MEANINGS = (
    (r"no space left|disk quota", "the worker's disk is full: {url} could not be fetched"),
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
    # A repository may be called like an error.
    words = said.replace(url, "")
    for pattern, sentence in _MEANINGS:
        if re.search(pattern, words, re.IGNORECASE):
            return CodeError(sentence.format(url=url), detail=said, worker_fault=sentence is _MEANINGS[0][1])
    last = said.splitlines()[-1] if said else "it said nothing"
    return CodeError(f"git could not fetch {url}: {last}", detail=said)
