"""`make walk`: new users go through README, tutorial and how-tos block by block, as the pages stand.

As root, for it makes accounts: `python3 -m tests.walk [PAGE...]`. Each user has a home and a clone of the last commit,
and uses what is on this machine's usual PATH. `--debian` does it in a bare Debian (`debootstrap`), with only what the
README says to install; `--here` as the user who calls it, in the environment that runs it, without accounts;
`--log FILE` writes what was run and how long it took.
"""

from __future__ import annotations

import argparse
import os
import pwd
import random
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.walk.pages import REPO, PageError, pages
from tests.walk.walker import Machine, Walk, Walked, WalkError, adopt_all, end_all

#: The accounts of the two machines.
USERS = {"first": "launch-walk-1", "second": "launch-walk-2"}
PATH = "/usr/local/bin:/usr/bin:/bin"
#: Of the ways to the package index.
HANDED_ON = re.compile(r"PIP_(CERT|INDEX_URL|EXTRA_INDEX_URL|DEFAULT_TIMEOUT)|\w+_proxy", re.IGNORECASE)
#: What the README says is to be installed before, as root.
PACKAGES = re.compile(r"apt install ([a-z0-9 -]+)`")
SUITE = "bookworm"


def main() -> int:
    # What was started ends with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    adopt_all()
    parser = argparse.ArgumentParser(prog="python3 -m tests.walk")
    parser.add_argument("pages", nargs="*", type=Path, metavar="PAGE")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--here", action="store_true")
    how.add_argument("--debian", action="store_true")
    parser.add_argument("--log", type=Path)
    given = parser.parse_args()
    if os.geteuid() != 0 and not given.here:
        print("make walk makes accounts: run it as root, or with --here", file=sys.stderr)
        return 2
    wanted = [page.resolve() for page in given.pages] or pages()
    if given.debian:
        return on_a_bare_debian([str(page.relative_to(REPO)) for page in wanted])
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    begun, walked = time.monotonic(), []
    # What a reader of README.md puts in place of its words. Other tests may go on beside a walk that is `--here`.
    address = f"127.{random.randrange(1, 255)}.{random.randrange(255)}.1" if given.here else "127.0.0.2"
    words = {"PASSWORD": secrets.token_urlsafe(24), "ADDRESS": address}
    with here(address) if given.here else accounts() as machines:
        cloned_s = time.monotonic() - begun
        for page in wanted:
            print(f"== {os.path.relpath(page, REPO)}")
            try:
                walked.append(Walk(machines, words, has_environment=given.here).go(page))
            except (WalkError, PageError) as error:
                print(f"FAILED: {error}", file=sys.stderr)
                return 1
    print("==")
    print(report(walked))
    if given.log:
        given.log.write_text(kept(walked, cloned_s), encoding="utf-8")
    return 0


@contextmanager
def here(address: str) -> Iterator[dict[str, Machine]]:
    """Two homes of the user who calls this, with the environment that runs it where the README makes one."""
    from launch_worker.dev.redis_server import find_redis_server

    # Not where tests have their folders: the path of a socket must be short.
    folder = Path(tempfile.mkdtemp(prefix="launch-walk-", dir="/tmp"))
    env = {name: value for name, value in os.environ.items() if not name.startswith(("LAUNCH_", "CELERY_", "XDG_"))}
    env |= {"PATH": f"{folder}/bin:{env['PATH']}", "LAUNCH_SERVER_ADDRESS": f"{address}:7600"}
    if os.geteuid() == 0:
        env["LAUNCH_ALLOW_ROOT"] = "1"
    machines = {}
    try:
        (folder / "bin").mkdir()
        (folder / "bin/redis-server").symlink_to(find_redis_server())
        for name in USERS:
            home = folder / name
            shutil.copytree(REPO / "examples", home / "launch_worker/examples")
            (home / "launch-worker").symlink_to(sys.prefix)
            machines[name] = Machine(
                home / "launch_worker", env | {"HOME": str(home), "TMPDIR": str(home)}, home / "launch-worker/bin"
            )
        yield machines
    finally:
        end_all()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def accounts() -> Iterator[dict[str, Machine]]:
    """Two new users, each with a clone of what is committed."""
    handed_on = {name: value for name, value in os.environ.items() if HANDED_ON.fullmatch(name)}
    machines = {}
    with tempfile.TemporaryDirectory(prefix="launch-walk-") as folder:
        # A file: out of another user's repository git does not clone.
        origin = Path(folder) / "launch_worker.bundle"
        subprocess.run(["git", "bundle", "create", "--quiet", origin, "HEAD"], cwd=REPO, check=True)
        Path(folder).chmod(0o755)
        try:
            for name, user in USERS.items():
                delete_account(user)
                subprocess.run(["useradd", "--create-home", "--shell", "/bin/bash", user], check=True)
                account = pwd.getpwnam(user)
                home = Path(account.pw_dir)
                env = {**handed_on, "HOME": str(home), "USER": user, "LOGNAME": user, "PATH": PATH, "LANG": "C.UTF-8"}
                # A terminal shows each line at once, and a pipe does not.
                env["PYTHONUNBUFFERED"] = "1"
                prefix = ("setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--init-groups")
                clone = [
                    *prefix,
                    "git",
                    "-c",
                    "advice.detachedHead=false",
                    "clone",
                    "--quiet",
                    str(origin),
                    "launch_worker",
                ]
                subprocess.run(clone, cwd=home, env=env, check=True)
                machines[name] = Machine(home / "launch_worker", env, home / "launch-worker/bin", prefix)
            yield machines
        finally:
            end_all()
            for user in USERS.values():
                delete_account(user)


def delete_account(user: str) -> None:
    with suppress(KeyError):
        pwd.getpwnam(user)
        subprocess.run(["userdel", "--remove", "--force", user], check=True, stderr=subprocess.DEVNULL)


def on_a_bare_debian(wanted: list[str]) -> int:
    """A root filesystem with nothing but Debian's base and what the README says to install, and this walk in it."""
    readme = (REPO / "README.md").read_text(encoding="utf-8")
    packages = " ".join(sorted({name for found in PACKAGES.findall(readme) for name in found.split()} | {"git"}))
    with tempfile.TemporaryDirectory(prefix="launch-walk-", ignore_cleanup_errors=True) as root:
        bare = ["debootstrap", "--variant=minbase", "--include=ca-certificates", SUITE, root, mirror()]
        subprocess.run(bare, check=True, stdout=subprocess.DEVNULL)
        for path in (Path("/etc/resolv.conf"), Path("/etc/ssl/certs/ca-certificates.crt")):
            if path.exists():
                shutil.copy(path, f"{root}{path}")
        # As Debian's installer writes it.
        Path(root, "etc/hosts").write_text("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
        # In a container nothing starts services, and they would look for the machine's.
        Path(root, "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
        Path(root, "usr/sbin/policy-rc.d").chmod(0o755)
        subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", REPO, f"{root}/root/launch_worker"], check=True)
        print(f"# apt install {packages}", flush=True)
        script = f"""
set -e
mount -t proc proc {root}/proc
mount --rbind /dev {root}/dev
chroot {root} apt-get -qq update
chroot {root} env DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes {packages} >/dev/null 2>&1
exec chroot {root} bash -c 'cd /root/launch_worker && exec python3 -m tests.walk {" ".join(wanted)}'
"""
        command = [
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--propagation=private",
            "bash",
            "-c",
            script,
        ]
        env = {name: value for name, value in os.environ.items() if HANDED_ON.fullmatch(name)}
        env |= {"PATH": f"{PATH}:/usr/sbin:/sbin", "HOME": "/root"}
        return subprocess.run([*command, "bash", "-c", script], env=env, check=False).returncode


def mirror() -> str:
    """This machine's own, of apt."""
    sources = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    text = "\n".join(path.read_text() for path in sources if path.is_file())
    found = re.search(r"^(?:deb (?:\[.*?\] )?|URIs: )(\S+)", text, re.MULTILINE)
    if found is None:
        raise SystemExit("apt names no mirror here; on Debian it does")
    return found[1]


def report(walked: list[Walked]) -> str:
    """What was run of each page, in how many seconds, and each block that was not, with its reason."""
    lines = ["| page | blocks run | seconds | not run |", "| --- | --- | --- | --- |"]
    for page in walked:
        left = "; ".join(f"line {block.place.rpartition(':')[2]}: {reason}" for block, reason in page.left)
        lines.append(f"| {page.page} | {len(page.done)} | {page.took_s:.0f} | {left} |")
    done, left_out = sum(len(page.done) for page in walked), sum(len(page.left) for page in walked)
    return "\n".join([*lines, "", f"Blocks run: {done}. Blocks not run: {left_out}."])


def kept(walked: list[Walked], cloned_s: float) -> str:
    """The page that keeps a walk: README.md line by line with the time since `git clone`, and all pages."""
    commit = subprocess.check_output(["git", "rev-parse", "--short=8", "HEAD"], cwd=REPO, text=True).strip()
    text = [
        "# A walk through these pages",
        "",
        "`make walk` makes two accounts, each with a home and a clone of its own, and carries out the blocks of",
        "README, tutorial and how-tos in order, as they stand. The second account is the second machine: it",
        "reaches Redis by its password, at 127.0.0.2. A block that fails fails the walk; one that cannot be run",
        "here says so in the page, with the reason.",
        "",
        f"Last on {time.strftime('%Y-%m-%d', time.gmtime())} at {commit}, with {os.cpu_count()} cores (load "
        f"{os.getloadavg()[0]:.0f}), Python {sys.version.split()[0]}.",
    ]
    readme = next((page for page in walked if page.page == "README.md"), None)
    if readme is not None:
        since = cloned_s
        text += ["", "## README, since `git clone`", "", "| minutes | what was done |", "| --- | --- |"]
        text += [f"| {minutes(since)} | accounts made, and the repository cloned by both |"]
        for block, took in readme.done:
            since += took
            lines = "<br>".join(f"`{line}`" for line in block.text.strip().replace("|", "\\|").splitlines())
            text.append(f"| {minutes(since)} | {lines} |")
    return "\n".join([*text, "", "## All pages", "", report(walked), ""])


def minutes(seconds: float) -> str:
    return f"{seconds // 60:.0f}:{seconds % 60:02.0f}"


if __name__ == "__main__":
    sys.exit(main())
