"""What import-linter (the contracts in pyproject.toml) cannot say of imports: which are lazy, and what they cost."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import launch_worker

ROOT = Path(launch_worker.__file__).parent
PACKAGE = "launch_worker"


class Import(NamedTuple):
    """One imported module, and where it is written."""

    importer: str
    target: str
    #: The names of a `from … import`; empty for a plain import.
    names: tuple[str, ...]
    in_function: bool
    path: Path
    line: int

    def __str__(self) -> str:
        text = self.path.read_text().splitlines()[self.line - 1].strip()
        return f"{self.path.relative_to(ROOT.parent)}:{self.line}: {text}"


def below(module: str) -> str:
    """The module's name below the package: `store.keys`; '' for the package itself."""
    return module.removeprefix(PACKAGE).removeprefix(".")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_module(name: str) -> bool:
    path = ROOT.parent.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def imports_of(path: Path) -> Iterator[Import]:
    importer = module_name(path)

    def visit(node: ast.AST, in_function: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(importer, alias.name, (), in_function, path, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            names = tuple(alias.name for alias in node.names)
            yield Import(importer, "." * node.level + (node.module or ""), names, in_function, path, node.lineno)
        inside = in_function or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside)

    yield from visit(ast.parse(path.read_text(), str(path)), False)


MODULES = sorted(ROOT.rglob("*.py"))


@functools.cache
def imports() -> list[Import]:
    """The imports of the whole package. To find them takes seconds: not while tests are collected."""
    return [found for path in MODULES for found in imports_of(path)]


def targets(found: Import) -> list[str]:
    """The package's own modules that an import reaches: `from launch_worker.cli import devices` is `cli.devices`."""
    if found.target.partition(".")[0] != PACKAGE:
        return []
    modules = [f"{found.target}.{name}" for name in found.names if is_module(f"{found.target}.{name}")]
    return modules or [found.target]


def test_no_module_takes_a_lazy_public_name_from_the_package_itself() -> None:
    """`from launch_worker import submit` inside the package would hide from the layers what is imported."""
    hidden = [
        str(found)
        for found in imports()
        if found.target == PACKAGE
        and any(not name.startswith("__") and not is_module(f"{PACKAGE}.{name}") for name in found.names)
    ]
    assert not hidden, "\n".join(hidden)


def test_imports_are_absolute() -> None:
    relative = [str(found) for found in imports() if found.target.startswith(".")]
    assert not relative, "\n".join(relative)


@pytest.mark.parametrize("library", ["pydantic", "pydantic_core", "fsspec"])
def test_a_slow_library_is_imported_inside_functions_only(library: str) -> None:
    early = [
        str(found)
        for found in imports()
        if found.target.partition(".")[0] == library
        and not found.in_function
        # Nobody waits for the start of a server, whose models these are.
        and not below(found.importer).startswith("server.")
    ]
    assert not early, "\n".join(early)


def test_the_guard_needs_the_standard_library_only() -> None:
    """Also in functions: it starts without site-packages."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import launch_worker.runners.process.guard; print(*sys.modules)"
    )
    words = [sys.executable, "-I", "-S", "-c", program, str(ROOT.parent)]
    loaded = subprocess.run(words, capture_output=True, text=True, check=True, timeout=30).stdout.split()
    own = {name for name in loaded if name.startswith(f"{PACKAGE}.")}
    assert {below(name).partition(".")[0] for name in own} == {"runners", "clock", "untrusted"}
    strays = [
        str(found)
        for found in imports()
        if found.importer in own
        and found.target.partition(".")[0] not in sys.stdlib_module_names
        and not own.issuperset(targets(found) or ["?"])
    ]
    assert not strays, "\n".join(strays)


#: What the ways through a server do without: Redis, SQL, and all that only Linux has.
NOT_THROUGH_A_SERVER = {"redis", "hiredis", "sqlalchemy", "inotify_simple", "resource", "pydantic"}


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("launch_worker", {"celery", "kombu", "redis", "pydantic", "click", "rich"}),
        # Whoever imports kombu beside this package has it imported too.
        ("launch_worker.startup", {"celery", "kombu", "redis", "pydantic", "click", "email"}),
        ("launch_worker.cli.programs", {"celery", "kombu", "redis", "pydantic", "click", "rich", "email"}),
        ("launch_worker.model.spec", {"celery", "kombu", "redis", "pydantic"}),
        ("launch_worker.cli.submit", {"celery", "kombu", "redis", "pydantic", "rich"}),
        (
            "launch_worker.api.http_submitter",
            NOT_THROUGH_A_SERVER,
        ),
        (
            "launch_worker.api.http_transport",
            NOT_THROUGH_A_SERVER,
        ),
        ("launch_worker.cli.health", {"celery", "kombu", "redis", "pydantic", "rich", "http"}),
        ("launch_worker.cli.main", {"celery", "kombu", "redis", "pydantic", "rich"}),
        ("launch_worker.runners.process.guard", {"celery", "kombu", "redis", "pydantic", "click"}),
        ("launch_worker.celery.application", {"fastapi", "starlette", "uvicorn", "httpx", "jinja2", "sqlalchemy"}),
        ("launch_worker.agent.launch_agent", {"fastapi", "starlette", "uvicorn", "httpx", "jinja2", "sqlalchemy"}),
    ],
)
def test_importing_a_module_alone_loads_no_heavy_library(module: str, forbidden: set[str]) -> None:
    program = f"import sys, {module}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert not set(loaded.stdout.split()) & forbidden
