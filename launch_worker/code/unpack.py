"""Unpacks an uploaded archive in a child process of the worker, within limits."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from launch_worker.code.patience import Patience
from launch_worker.errors import CodeError
from launch_worker.runners.process import child
from launch_worker.runners.process.child import Bounds
from launch_worker.untrusted.text import read_json

_MEMORY_BYTES = 512 << 20
#: CPU seconds for the smallest archive, and bytes a second for larger ones: a fifth of a slow machine's speed.
_CPU_S = 30
_BYTES_PER_CPU_S = 1 << 20
_PROGRAM = "import sys; sys.path.insert(0, sys.argv.pop(1)); from launch_worker.code.extract import main; main()"


def unpack(archive: BinaryIO, folder: Path, *, limit_bytes: int, patience: Patience, marks: Mapping[str, str]) -> None:
    """Unpack what `launch_worker.code.extract` allows into the empty folder. `marks` are in the child's environment.

    Raises CodeError, StartGivenUpError, and OSError for this machine's own disk.
    """
    root = str(Path(__file__).parents[2])
    cpu_s = _CPU_S + os.fstat(archive.fileno()).st_size // _BYTES_PER_CPU_S
    ended = child.run(
        [sys.executable, "-I", "-S", "-X", "utf8", "-c", _PROGRAM, root, str(limit_bytes)],
        cwd=folder,
        env=dict(marks),
        check=patience.check,
        stdin=archive,
        bounds=Bounds(memory_bytes=_MEMORY_BYTES, cpu_s=cpu_s, file_bytes=limit_bytes + 512),
    )
    if ended.status == -signal.SIGXCPU:
        raise CodeError(f"the upload is refused: unpacking it takes more than {cpu_s} s of processor time")
    if ended.status:
        last = ended.said.decode("utf-8", "replace").strip().rpartition("\n")[2][:500]
        how = f"signal {-ended.status}" if ended.status < 0 else f"exit code {ended.status}"
        raise CodeError(f"the upload could not be unpacked: {last or how}")
    said = read_json(ended.out or b"{}")
    if "refused" in said:
        raise CodeError(said["refused"])
    if "errno" in said:
        raise OSError(said["errno"], said["strerror"], said["filename"])
