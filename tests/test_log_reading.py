"""The logs of several hosts, read as one."""

from __future__ import annotations

from palm.log_files import Page
from palm.log_reading import Line, Merge, Reading
from palm.log_record import Record, Wanted, encoded

ANY = Wanted()


def page(*times: float, over: bool = True, cursor: str = "c", follow: str = "") -> Page:
    records = [Record(time=t, level="INFO", number=20, server="s", text=f"{t:g}") for t in times]
    return Page(b"".join(map(encoded, records)), cursor, over, follow)


def texts(lines: list[Line]) -> list[str]:
    return [f"{line.host}{line.record.text}" for line in lines]


def test_first_back_then_on():
    reading = Reading("a", ANY, 3)
    assert reading.question() == ("log_back", ("", tuple(ANY), 3))
    assert reading.take(page(7, 8, over=False, cursor="before 7", follow="behind 8")) == [] and not reading.is_over
    assert reading.question() == ("log_back", ("before 7", tuple(ANY), 1))
    assert texts(reading.take(page(6, cursor="before 6", follow="no more"))) == ["a6", "a7", "a8"] and reading.is_over
    assert reading.question() == ("log_on", ("behind 8", tuple(ANY)))
    assert texts(reading.take(page(9, over=False, cursor="behind 9"))) == ["a9"] and not reading.is_over
    assert reading.question() == ("log_on", ("behind 9", tuple(ANY)))
    assert Reading("a", ANY, 0).question() == ("log_on", ("", tuple(ANY)))


def test_what_is_there_is_shown_when_nothing_older_can_come():
    a, b, merge = Reading("a", ANY, 0), Reading("b", ANY, 0), Merge()
    new = [*a.take(page(1, 5, over=False)), *b.take(page(2, 3, over=False))]
    assert texts(merge.behind([a, b], new)) == ["a1", "b2", "b3"]
    assert texts(merge.behind([a, b], b.take(page(4, 9)))) == ["b4", "a5"], "b has no more: a is not beyond 5"
    assert texts(merge.behind([a, b], a.take(page(8)))) == ["a8", "b9"]
    assert merge.behind([a, b], []) == []


def test_one_that_does_not_answer_holds_up_nobody():
    a, b, merge = Reading("a", ANY, 0), Reading("b", ANY, 0), Merge()
    assert texts(merge.behind([a], a.take(page(1)))) == ["a1"] and not b.is_over


def test_following_waits_one_turn_whatever_the_clocks_say():
    a, b, merge = Reading("a", ANY, 0), Reading("b", ANY, 0), Merge()
    both = [a, b]
    assert merge.following(both, a.take(page(10))) == []
    assert texts(merge.following(both, [*a.take(page(20)), *b.take(page(9, 15))])) == ["b9", "a10"]
    assert texts(merge.following(both, b.take(page(1000)))) == ["b15", "a20"], "its clock is ahead"
    assert texts(merge.following(both, a.take(page(21)))) == ["a21", "b1000"]
    assert merge.following(both, []) == []
    assert merge.following(both, a.take(page(22))) == [] and texts(merge.rest()) == ["a22"]


def test_alone_nothing_waits_and_the_order_is_the_file_s():
    a, merge = Reading("a", ANY, 0), Merge()
    assert texts(merge.behind([a], a.take(page(3, 2, over=False)))) == ["a3", "a2"]
    assert texts(merge.following([a], a.take(page(5, 4)))) == ["a5", "a4"]
