"""Ask PyPI for known vulnerabilities in all that requirements/*.txt have: `make audit`.

Exits 0 when each package was looked up and none is known to be vulnerable, 1 when one is, and 2 when not all could
be looked up: pip-audit alone would say "No known vulnerabilities found" then too.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tools.requirements import FILES, path_of

NOT_REACHED = (
    "nothing is known: no package could be looked up. `make audit` needs the JSON API of PyPI; behind a mirror without "
    "it, run it on a machine that reaches PyPI itself"
)


def verdict(dependencies: list[dict[str, Any]]) -> tuple[int, list[str]]:
    """The exit code, and the lines to print, for the dependencies in pip-audit's answer."""
    skipped = [one for one in dependencies if "skip_reason" in one]
    lines = []
    for one in dependencies:
        for known in one.get("vulns", ()):
            mended = ", ".join(known["fix_versions"]) or "no version yet"
            lines.append(f"{one['name']} {one['version']}: {known['id']}, mended in {mended}")
    code = 1 if lines else 2 if skipped or not dependencies else 0
    if len(skipped) == len(dependencies):
        return code, [NOT_REACHED]
    lines += [f"{one['name']}: not looked up: {one['skip_reason']}" for one in skipped]
    looked_up = len(dependencies) - len(skipped)
    return code, [
        *lines,
        f"{looked_up} of {len(dependencies)} packages looked up, {len(lines) - len(skipped)} known vulnerabilities",
    ]


def main(pip_audit: Path) -> int:
    files = [part for name in FILES for part in ("--requirement", str(path_of(name)))]
    options = ["--disable-pip", "--require-hashes", "--progress-spinner", "off", "--format", "json"]
    done = subprocess.run([pip_audit, *options, *files], capture_output=True, text=True, check=False)
    try:
        dependencies = json.loads(done.stdout)["dependencies"]
    except ValueError:
        last = done.stderr.strip().splitlines()[-1:] or [f"it exited {done.returncode} and said nothing"]
        print(f"{NOT_REACHED}. pip-audit says: {last[0]}", file=sys.stderr)
        return 2
    code, lines = verdict(dependencies)
    print("\n".join(lines), file=sys.stderr if code else sys.stdout)
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
