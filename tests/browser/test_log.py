"""The log of a run in a real browser: it opens at its end, follows, is searched, and shows nothing but text."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from launch_worker.model.run import Record
from launch_worker.store.store import Store
from tests.conftest import wait_until
from tests.support.arrows import FAILED_AGAIN, FINISHED, claim, create
from tests.support.whole_logs import store_log


def numbered(count: int) -> bytes:
    return b"".join(b"step %d is done\n" % number for number in range(1, count + 1))


def ended(store: Store, log_url: str, data: bytes, *, block_bytes: int = 64 << 10) -> Record:
    """A Finished run with this log."""
    record = claim(store, create(store, name="train"))
    store_log(log_url, record, data, block_bytes=block_bytes)
    assert store.finish(record, FINISHED)
    return record


def says(store: Store, record: Record, data: bytes, offset: int, line: int) -> int:
    """Have a running job print; returns the end of its output."""
    store.append_log(record.id, record.attempt, data, offset=offset, line=line)
    return offset + len(data)


ROWS = """() => {
  const view = document.querySelector(".log-lines").getBoundingClientRect();
  const isSeen = (box) => box.bottom > view.top + 2 && box.top < view.bottom - 2;
  const isNumber = (node) => node instanceof HTMLAnchorElement && !node.className;
  return [...document.querySelectorAll(".log-row")]
    .filter((row) => isSeen(row.getBoundingClientRect()))
    .map((row) => [...row.childNodes].filter((node) => !isNumber(node)).map((node) => node.textContent).join(""));
}"""


def rows(page: Page) -> list[str]:
    """What the rows in view show, without line numbers."""
    found: list[str] = page.evaluate(ROWS)
    return found


def top(page: Page) -> str:
    """The first row in view; '' in the moment before a scrolled view is drawn."""
    return next(iter(rows(page)), "")


def wait_for_rows(page: Page, first: str | None = None, last: str | None = None) -> None:
    def is_so() -> bool:
        shown = rows(page)
        return bool(shown) and (first is None or shown[0] == first) and (last is None or shown[-1] == last)

    wait_until(is_so, what=f"the rows are from {first!r} to {last!r}")


def test_a_long_log_opens_at_its_end_and_has_few_elements(page: Page, store: Store, log_url: str) -> None:
    record = ended(store, log_url, numbered(1_000_000), block_bytes=512 << 10)
    page.goto(f"/runs/{record.id}/log")
    wait_for_rows(page, last="step 1000000 is done")
    expect(page.locator(".log-count")).to_have_text("1,000,000 lines")
    view = page.locator(".log-lines")
    # To the middle by the scroll bar, to the beginning and back by keys, line by line by the wheel.
    view.evaluate("(view) => { view.scrollTop = (view.scrollHeight - view.clientHeight) / 2 }")
    middle = wait_until(lambda: re.fullmatch(r"step (4999\d\d) is done", top(page)))
    view.hover()
    page.mouse.wheel(0, 36)
    number = int(middle[1])
    wait_until(lambda: top(page) in (f"step {number + 1} is done", f"step {number + 2} is done"))
    view.focus()
    page.keyboard.press("Home")
    wait_for_rows(page, first="step 1 is done")
    page.keyboard.press("PageDown")
    wait_until(lambda: re.fullmatch(r"step [2-5]\d is done", top(page)))
    page.keyboard.press("End")
    wait_for_rows(page, last="step 1000000 is done")
    assert page.locator("log-view *").count() <= 200


def test_a_log_grows_while_its_job_prints_and_stays_where_its_reader_is(page: Page, store: Store) -> None:
    record = claim(store, create(store))
    end = says(store, record, numbered(100), 0, 0)
    page.goto(f"/runs/{record.id}/log")
    wait_for_rows(page, last="step 100 is done")
    end = says(store, record, b"half a line", end, 100)
    wait_for_rows(page, last="half a line")
    end = says(store, record, b" and its end\n10%\r", end, 100)
    wait_for_rows(page, last="10%")
    end = says(store, record, "20%\r30% \N{SNOWMAN}".encode()[:-1], end, 101)
    wait_until(
        lambda: rows(page)[-2:] in (["half a line and its end", "30% "], ["half a line and its end", "30% \ufffd"])
    )
    end = says(store, record, "\N{SNOWMAN}".encode()[-1:] + b"\n", end, 101)
    wait_for_rows(page, last="30% \N{SNOWMAN}")
    view = page.locator(".log-lines")
    # At once: a wheel's way may take some frames.
    view.evaluate("(view) => { view.scrollTop -= 400 }")
    button = page.get_by_role("button", name="Newest lines")
    expect(button).to_be_visible()
    seen = wait_until(lambda: top(page))
    end = says(store, record, b"more\n" * 500, end, 102)
    expect(page.locator(".log-count")).to_have_text("602 lines")
    assert top(page) == seen
    button.click()
    wait_for_rows(page, last="more")
    says(store, record, b"last\n", end, 602)
    wait_for_rows(page, last="last")
    assert store.finish(record, FINISHED)
    expect(page.locator("log-view")).not_to_have_attribute("live", "")
    expect(button).to_be_hidden()


def test_a_text_is_found_on_every_line_that_has_it(page: Page, store: Store, log_url: str) -> None:
    lines = [f"step {at}" if at % 1000 else f"Checkpoint \x1b[31mat\x1b[0m {at}" for at in range(1, 5001)]
    record = ended(store, log_url, "\n".join(lines).encode())
    page.goto(f"/runs/{record.id}/log")
    wait_for_rows(page)
    page.keyboard.press("/")
    page.keyboard.type("checkpoint at")
    found = page.locator(".log-found")
    expect(found).to_have_text("5 of 5")
    wait_until(lambda: "Checkpoint at 5000" in rows(page))
    page.keyboard.press("Enter")
    expect(found).to_have_text("1 of 5")
    wait_until(lambda: "Checkpoint at 1000" in rows(page))
    expect(page.locator(".log-marked")).to_contain_text("Checkpoint at 1000")
    page.keyboard.press("Shift+Enter")
    expect(found).to_have_text("5 of 5")
    page.locator(".log-lines").focus()
    page.keyboard.press("N")
    expect(found).to_have_text("4 of 5")
    page.get_by_label("Search the log").fill("CHECKPOINT")
    expect(found).to_have_text("not found")
    page.keyboard.press("Escape")
    expect(page.locator(".log-lines")).to_be_focused()
    expect(found).to_have_text("")


def test_a_line_has_an_address(page: Page, context: BrowserContext, store: Store, log_url: str) -> None:
    record = ended(store, log_url, numbered(5000))
    page.goto(f"/runs/{record.id}/log#L1234")
    expect(page.locator(".log-marked")).to_contain_text("step 1234 is done")
    page.locator(".log-row a", has_text="1240").click()
    assert page.url.endswith("/log#L1240")
    expect(page.locator(".log-marked")).to_contain_text("step 1240 is done")
    page.get_by_label("Search the log").fill(":77")
    page.keyboard.press("Enter")
    expect(page.locator(".log-marked")).to_contain_text("step 77 is done")
    assert page.url.endswith("#L77")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert download.value.path().read_bytes() == numbered(5000)
    assert download.value.suggested_filename == f"{record.id}-1.log"


def test_each_attempt_has_its_log(page: Page, store: Store) -> None:
    run_id = create(store)
    for number in (1, 2):
        record = claim(store, run_id)
        says(store, record, b"this is attempt %d\n" % number, 0, 0)
        if number == 1:
            assert store.finish(record, FAILED_AGAIN)
    page.goto(f"/runs/{run_id}/log")
    wait_for_rows(page, last="this is attempt 2")
    page.get_by_label("Attempt", exact=True).select_option(label="attempt 1 of 2")
    wait_for_rows(page, last="this is attempt 1")
    page.locator(".log-row a", has_text="1").click()
    assert page.url.endswith("?attempt=1#L1")
    page.reload()
    wait_for_rows(page, last="this is attempt 1")
    # On the page of the run the address means the same.
    page.goto(f"/runs/{run_id}?attempt=1#L1")
    expect(page.locator(".log-marked")).to_contain_text("this is attempt 1")
    page.goto(f"/runs/{run_id}")
    wait_for_rows(page, last="this is attempt 2")


def test_who_follows_sees_the_run_begin_and_its_next_attempts(page: Page, store: Store) -> None:
    run_id = create(store)
    page.goto(f"/runs/{run_id}/log")
    expect(page.locator(".log-said")).to_have_text("Nothing was printed yet.")
    record = claim(store, run_id)
    says(store, record, b"this is attempt 1\n", 0, 0)
    wait_for_rows(page, last="this is attempt 1")
    expect(page.locator(".log-said")).to_have_text("")
    assert store.finish(record, FAILED_AGAIN)
    record = claim(store, run_id)
    says(store, record, b"this is attempt 2\n", 0, 0)
    wait_for_rows(page, last="this is attempt 2")
    assert store.finish(record, FINISHED)
    expect(page.locator("log-view")).not_to_have_attribute("live", "")
    # A person has it tried again, of which the page's ring tells.
    assert not store.requeue(run_id, reason="again")
    says(store, claim(store, run_id), b"this is attempt 3\n", 0, 0)
    page.evaluate("document.body.dispatchEvent(new CustomEvent('ring'))")
    wait_for_rows(page, last="this is attempt 3")
    expect(page.get_by_label("Attempt", exact=True)).to_have_value("3")


def test_what_is_missing_is_said_where_it_is_missing(page: Page, store: Store) -> None:
    record = claim(store, create(store))
    data = numbered(50)
    lost = len(data)
    says(store, record, data, 0, 0)
    store.append_log(record.id, 1, b"torn\nkept\n", offset=lost + 1000, line=90, keep_from="*", missing=lost + 1000)
    page.goto(f"/runs/{record.id}/log")
    wait_for_rows(page, last="kept")
    shown = rows(page)
    assert len(shown) == 2
    assert "(91 lines) of output before this are kept nowhere" in shown[0]
    expect(page.locator(".log-row a")).to_have_text("92")
    # More is lost while somebody follows.
    end = lost + 1000 + len(b"torn\nkept\n")
    store.append_log(record.id, 1, b"torn\nafter it\n", offset=end + 500, line=120, missing=lost + 1500)
    wait_for_rows(page, last="after it")
    assert [row for row in rows(page) if "before this" not in row] == ["kept", "after it"]
    assert page.locator(".log-row a").all_inner_texts() == ["92", "122"]


HOSTILE = (
    ("<img src=x onerror=alert(1)><script>alert(2)</script>", None),
    ("\x1b]0;title\x07\x1b]8;;https://evil.example\x1b\\link\x1b]8;;\x1b\\ \x1b[2J\x1b[10;10Hmoved", "link moved"),
    ("\x1b[31mred\x1b[0m \x1b[38;5;46mgreen\x1b[38;2;1;2;200mblue\x1b[1;4mboth\x1b[0m", "red greenblueboth"),
    ("nul \x00 bell \x07 back \x08 del \x7f c1 \x9b31m lone \x1b", "nul ␀ bell ␇ back ␈ del ␡ c1 ⟨U+009B⟩31m lone ␛"),
    (
        "a \u202egnp.exe\u202c \u2066b\u2069 \u200f \ufeff",
        "a ⟨U+202E⟩gnp.exe⟨U+202C⟩ ⟨U+2066⟩b⟨U+2069⟩ ⟨U+200F⟩ ⟨U+FEFF⟩",
    ),
    ("\x1b]0;never ended", "␛]0;never ended"),
    ("\x1b[31", "␛[31"),
    ("tab\there", None),
    ("10%\r20%\r100%\r", "100%"),
    ("Z\u0351\u0351\u0351", None),
)


@pytest.mark.parametrize("has_script", [True, False])
def test_a_hostile_log_is_text(
    context: BrowserContext, page: Page, store: Store, log_url: str, has_script: bool
) -> None:
    lines = [line for line, _ in HOSTILE]
    data = "\n".join([*lines, "x" * 1_000_000, ""]).encode() + b"\xff\xfe bytes\n"
    record = ended(store, log_url, data)
    expected = [shown or line for line, shown in HOSTILE]
    long = "x" * 4000 + "… 996,000 more characters"
    if not has_script:
        found = context.request.get(f"/runs/{record.id}/log").text()
        assert "<script>alert" not in found
        assert "<img" not in found
        for text in expected[1:-1]:
            assert text in found
        assert "… 996,000 more characters" in found
        return
    page.goto(f"/runs/{record.id}/log")
    wait_for_rows(page, last="\ufffd\ufffd bytes")
    shown = rows(page)
    assert shown[:-2] == expected
    assert shown[-2] in (long, long.replace("…", " … "))
    assert page.title() == "Log of train · launch_worker"
    assert page.locator("log-view img, log-view script, .log-row a[href^=http]").count() == 0
    hues = page.locator(".log-row").nth(2).locator("span")
    assert [hues.nth(at).get_attribute("class") for at in range(4)] == [
        "log-hue-1",
        "log-hue-2",
        "log-hue-4",
        "log-hue-4 log-bold log-underline",
    ]
    # Whatever the line has in it, a row is a row.
    assert page.evaluate("[...document.querySelectorAll('.log-row')].every((row) => row.offsetHeight === 18)")
    with page.expect_download() as download:
        page.locator(".log-more").click()
    assert download.value.path().stat().st_size == 1_000_001


def test_long_lines_wrap_where_one_wants_it_and_the_choice_is_kept(page: Page, store: Store, log_url: str) -> None:
    record = ended(store, log_url, b"".join(b"%d " % at + b"word " * 100 + b"\n" for at in range(1, 301)))
    page.goto(f"/runs/{record.id}/log")
    wait_for_rows(page)
    view = page.locator(".log-lines")
    last = "300 " + "word " * 100
    is_wide = "(view) => view.scrollWidth > view.clientWidth + 5"
    assert view.evaluate(is_wide)
    page.set_viewport_size({"width": 400, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.keyboard.press("w")
    expect(page.get_by_role("button", name="Wrap")).to_have_attribute("aria-pressed", "true")
    wait_until(lambda: not view.evaluate(is_wide))
    wait_until(lambda: rows(page)[-1:] == [last], what="the last line is seen")
    page.keyboard.press("t")
    expect(page.get_by_role("button", name="Time")).to_have_attribute("aria-pressed", "true")
    page.reload()
    wait_until(lambda: rows(page)[-1:] == [last])
    expect(page.get_by_role("button", name="Wrap")).to_have_attribute("aria-pressed", "true")
    assert not view.evaluate(is_wide)


def test_a_lost_connection_is_said_and_the_log_goes_on(page: Page, context: BrowserContext, store: Store) -> None:
    record = claim(store, create(store))
    end = says(store, record, b"before\n", 0, 0)
    failing = re.compile(r"/logs/tail")
    page.route(failing, lambda route: route.abort())
    page.goto(f"/runs/{record.id}/log")
    wait_for_rows(page, last="before")
    expect(page.locator(".log-said")).to_contain_text("connection is lost")
    says(store, record, b"after\n", end, 1)
    page.unroute(failing)
    wait_for_rows(page, last="after")
    expect(page.locator(".log-said")).to_have_text("")
