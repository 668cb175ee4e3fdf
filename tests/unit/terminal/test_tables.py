"""A table on any screen: no line is longer than the screen, no row is lost, what is not cut is whole."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from launch_worker.terminal import Column, Screen, Styled, Table, Tailed, counted, state_cell, styled
from launch_worker.terminal.cells import cut, padded, unstyled, width_of, wrapped

#: All kinds of letters: wide ones, ones without a width, escapes, changes of direction, halves of pairs.
TEXTS = st.text(
    st.one_of(st.characters(), st.sampled_from("aé日本語한글\u0301\u200d\ufe0f\x1b\x07\n\t\u202e|")), max_size=40
)
IDS = st.text("0123456789abcdef", min_size=1, max_size=15)


def shown(table: Table, width: int | None, *, is_terminal: bool = True, encoding: str = "utf-8") -> list[str]:
    return [unstyled(line) for line in table.lines(Screen(width, is_terminal, encoding))]


@st.composite
def tables(draw: st.DrawFn) -> Table:
    columns: list[Column] = [Column("ID", 0)]
    for at in range(draw(st.integers(0, 7))):
        least = draw(st.one_of(st.none(), st.integers(1, 30)))
        columns.append(
            Column(draw(TEXTS) or f"C{at}", draw(st.integers(0, 9)), least, draw(st.booleans()), draw(st.booleans()))
        )
    cell = st.one_of(
        TEXTS,
        st.integers(-(10**9), 10**9),
        st.none(),
        TEXTS.map(lambda text: styled(text, colour="red")),
        st.sampled_from(["Pending", "Crashed"]).map(state_cell),
        TEXTS.map(lambda text: Tailed(text, styled("✓8 ✗2", dim=True))),
    )
    rows = draw(st.lists(st.tuples(IDS, *(cell for _ in columns[1:])), max_size=8))
    return Table(columns, rows)


@given(tables(), st.integers(20, 250), st.sampled_from(["utf-8", "ascii", "latin-1"]))
def test_no_line_is_longer_than_the_screen_and_no_row_is_lost(table: Table, width: int, encoding: str) -> None:
    lines = shown(table, width, encoding=encoding)
    assert max(map(width_of, lines)) <= width
    assert not [line for line in lines if not line.isprintable()]
    heads = [line for line in lines[1:] if not line.startswith("  ")]
    assert [line.split(" ")[0] for line in heads] == [row[0] for row in table.rows]
    for line in lines:
        line.encode(encoding)


@given(tables(), st.booleans())
def test_without_a_width_nothing_is_cut_and_each_row_is_one_line(table: Table, is_terminal: bool) -> None:
    lines = shown(table, None, is_terminal=is_terminal)
    assert len(lines) == len(table.rows) + 1
    for line, row in zip(lines[1:], table.rows, strict=True):
        assert all(unstyled(cell).rstrip() in line for cell in row if isinstance(cell, Styled))


@given(TEXTS.map(lambda text: styled(text, colour="red")), st.integers(0, 50))
def test_a_cut_text_has_the_cells_that_it_may(text: Styled, cells: int) -> None:
    assert width_of(cut(text, cells)) <= cells
    assert width_of(cut(unstyled(text), cells)) <= cells
    assert cut(text, width_of(text)) == text


@given(TEXTS, st.integers(20, 60), st.one_of(st.none(), st.integers(0, 9)))
def test_a_wrapped_text_loses_no_letter_and_breaks_between_words(text: str, width: int, indent: int | None) -> None:
    screen = Screen(width, is_terminal=True)
    lines = wrapped(text, screen, styled("problem: ", colour="red"), indent=indent)
    assert max(map(width_of, lines)) <= width
    words = [word for line in lines for word in unstyled(line).removeprefix("problem: ").split()]
    assert "".join(words) == "".join(unstyled(styled(text)).split())


RUNS = [
    Column("STATE"),
    Column("NAME", least=20),
    Column("QUEUE", 2, least=12),
    Column("PROJECT", 5, least=12),
    Column("AGE", 3, right=True),
    Column("TIME", 4, right=True),
    Column("ID"),
    Column("REASON", 6, least=30, falls=True),
]
ROWS = [
    (state_cell("Finished"), "iris", "default", "team/iris", "3 min", "45 ms", "1m83cyvtfq1tc69", None),
    (state_cell("Failed"), "a" * 60, "gpu", "", "12 min", "2 min 3 s", "1m83cyvtfq1tc70", "exit code 1: " + "x" * 90),
]


def test_at_80_columns_the_reason_is_a_line_of_its_own_and_the_name_is_cut() -> None:
    assert shown(Table(RUNS, ROWS), 80) == [
        "STATE       NAME                     QUEUE       AGE       TIME  ID",
        "✓ Finished  iris                     default   3 min      45 ms  1m83cyvtfq1tc69",
        "✗ Failed    aaaaaaaaaaaaaaaaaaaaaa…  gpu      12 min  2 min 3 s  1m83cyvtfq1tc70",
        "  exit code 1: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…",
    ]


def test_a_wide_screen_has_all_columns_and_a_narrow_one_those_that_matter() -> None:
    table = Table(RUNS, ROWS)
    assert len(shown(table, 200)) == 3
    assert table.hidden(Screen(200, True)) == []
    assert table.hidden(Screen(80, True)) == ["PROJECT"]
    assert shown(table, 45)[2:] == [
        "✗ Failed    aaaaaaaaaaaaaaa…  1m83cyvtfq1tc70",
        "  exit code 1: xxxxxxxxxxxxxxxxxxxxxxxxxxxxx…",
    ]


def test_a_pipe_has_every_column_and_no_sign_and_nothing_empty() -> None:
    lines = shown(Table(RUNS, ROWS), None, is_terminal=False)
    fields = [[field.strip() for field in line.split("  ") if field] for line in lines]
    assert [len(line) for line in fields] == [8, 8, 8]
    assert fields[1] == ["Finished", "iris", "default", "team/iris", "3 min", "45 ms", "1m83cyvtfq1tc69", "-"]


def test_an_empty_column_vanishes_on_a_terminal() -> None:
    assert shown(Table(["A", "B", "C"], [("x", None, "y"), ("z", "", 5)]), 80)[0] == "A  C"
    assert shown(Table(["A", "B"], []), 80) == ["A  B"]


def test_numbers_stand_to_the_right() -> None:
    assert shown(Table(["QUEUE", "RUNS"], [("a", 5), ("b", 3056)]), 80) == [
        "QUEUE   RUNS",
        "a          5",
        "b      3,056",
    ]


def test_wide_characters_keep_columns_straight() -> None:
    lines = shown(Table(["NAME", "X"], [("日本語", "x"), ("abc", "x")]), None, is_terminal=False)
    assert {width_of(line[: line.rindex("x")]) for line in lines[1:]} == {8}
    assert padded("日本", 6) == "日本  "


def test_a_tail_stays_when_its_text_is_cut() -> None:
    counts = counted({"Finished": 8, "Failed": 1200}, Screen(30, True))
    lines = shown(
        Table([Column("NAME", least=5), Column("ID")], [(Tailed("n" * 99, Styled(" " + counts)), "1" * 15)]), 40
    )
    assert lines[1] == "nnnnnnnnnnnn… ✓8 ✗1,200  111111111111111"


def test_an_encoding_without_the_signs_gets_those_of_ascii() -> None:
    lines = shown(Table(RUNS, ROWS), 80, encoding="ascii")
    assert lines[2].startswith("x Failed    aaaaaaaaaaaaaaaaaaaaaa~  gpu")
