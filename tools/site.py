"""Builds the site of the docs into build/site: `make docs`. Nothing is fetched.

Pages link to files of the repository as a Git forge resolves it. Here those files become pages too, below
`repository/`: the copy in build/docs, which zensical reads, links to them there.
"""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
COPY, SITE = ROOT / "build/docs", ROOT / "build/site"
#: A link or a picture of a page: what stands before its target, the target, and what stands behind.
LINK = re.compile(r"(\]\(|(?:src|srcset|href)=\")([^)\s\"]+)(\)|\")")
#: What the theme would fetch to have its search work in a page that is opened from a file, and our copy of it.
FETCHED = "https://unpkg.com/iframe-worker/shim"
OURS = ROOT / "tools/vendor/iframe-worker.js"
#: Languages of the files that are shown, by the ends of their names.
LANGUAGES = {
    ".py": "python",
    ".yml": "yaml",
    ".yaml": "yaml",
    ".lua": "lua",
    ".json": "json",
    ".toml": "toml",
    ".conf": "ini",
}


def place_of(path: Path) -> Path:
    """The path on the site of a file of the repository."""
    if path.is_relative_to(DOCS) and path.is_file():
        return path.relative_to(DOCS)
    page = path if path.suffix == ".md" else path.with_name(f"{path.name}.md")
    return "repository" / page.relative_to(ROOT)


def with_links(text: str, source: Path, found: Callable[[Path], None]) -> str:
    """The text of a page with its links as the site has them; `found` gets each file that is linked."""

    def resolve(match: re.Match[str]) -> str:
        path, mark, place = match[2].partition("#")
        target = (source.parent / path).resolve()
        if "://" in path or path.startswith("mailto:") or not path or not target.exists():
            return match[0]
        found(target)
        return f"{match[1]}{os.path.relpath(place_of(target), place_of(source).parent)}{mark}{place}{match[3]}"

    return LINK.sub(resolve, text)


def as_page(path: Path) -> str:
    """A page that shows a file, or lists a folder."""
    name = path.relative_to(ROOT)
    if path.is_dir():
        files = sorted(one for one in path.iterdir() if one.is_file() and not one.name.startswith("."))
        beside = place_of(path).parent
        linked = [
            f"[{one.name}]({os.path.relpath(place_of(one), beside)})" if one.is_relative_to(DOCS) else f"`{one.name}`"
            for one in files
        ]
        return f"# {name}/\n\nFiles of this folder:\n\n" + "".join(f"- {one}\n" for one in linked)
    text = path.read_text(encoding="utf-8").rstrip("\n")
    return f"# {name}\n\n~~~~~~{LANGUAGES.get(path.suffix, 'text')}\n{text}\n~~~~~~\n"


def copy() -> None:
    """Copy docs/, and what its pages link to, into build/docs."""
    shutil.rmtree(COPY, ignore_errors=True)
    shutil.copytree(DOCS, COPY, ignore=shutil.ignore_patterns("*.py", "*.pyc", "__pycache__"))
    waiting = sorted(DOCS.rglob("*.md"))
    done = set(waiting)

    def found(target: Path) -> None:
        is_there = target.is_relative_to(DOCS) and target.is_file()
        if target.is_relative_to(ROOT) and not is_there and target not in done:
            done.add(target)
            waiting.append(target)

    while waiting:
        source = waiting.pop()
        page = COPY / place_of(source)
        page.parent.mkdir(parents=True, exist_ok=True)
        is_page = source.suffix == ".md"
        text = with_links(source.read_text(encoding="utf-8"), source, found) if is_page else as_page(source)
        page.write_text(text, encoding="utf-8")


def broken_links() -> Iterator[str]:
    """Each link of the site that leads nowhere, and each thing that a page would fetch from another place."""
    texts = {page: page.read_text(encoding="utf-8") for page in SITE.rglob("*.html")}
    marks = {page: set(map(html.unescape, re.findall(r'\bid="?([^" >]+)', text))) for page, text in texts.items()}
    for page, text in texts.items():
        name = page.relative_to(SITE)
        for attribute, quoted, bare in re.findall(r'\b(href|src|srcset)=(?:"([^"]*)"|([^" >]+))', text):
            link = html.unescape(quoted or bare)
            if re.match(r"[a-z]+:|//", link):
                if attribute != "href" and not link.startswith("data:"):
                    yield f"{name}: {link} is fetched from elsewhere"
                continue
            path, _, mark = unquote(link).partition("#")
            target = (page.parent / path.partition("?")[0]).resolve() if path else page
            if target.is_dir():
                target /= "index.html"
            if name.name == "404.html":
                continue
            if not target.exists():
                yield f"{name}: {link} leads nowhere"
            elif mark and target in marks and mark not in marks[target] and not mark.startswith("__"):
                yield f"{name}: {link}: there is no such place on that page"


def build(*, quiet: bool = False) -> list[str]:
    """Build the site; what is wrong with it, as sentences."""
    copy()
    shutil.rmtree(SITE, ignore_errors=True)
    done = subprocess.run(
        [Path(sys.executable).with_name("zensical"), "build", "--strict", "--clean"],
        cwd=ROOT,
        capture_output=quiet,
        text=True,
        env={**os.environ, "NO_COLOR": "1"},
    )
    if done.returncode:
        return [f"zensical: {done.stderr or 'see above'}"]
    shutil.copy(OURS, SITE / "assets/javascripts")
    for page in SITE.rglob("*.html"):
        depth = len(page.relative_to(SITE).parts) - 1
        text = page.read_text(encoding="utf-8")
        page.write_text(text.replace(FETCHED, f"{'../' * depth}assets/javascripts/{OURS.name}"), encoding="utf-8")
    return sorted(set(broken_links()))


def main() -> int:
    wrong = build()
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    if not wrong:
        print(f"the site is in {SITE.relative_to(ROOT)}: open {(SITE / 'index.html').relative_to(ROOT)} in a browser")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
