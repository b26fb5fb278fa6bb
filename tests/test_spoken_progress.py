import io

import pytest
from rich.console import Console

from aimbench import spoken_progress
from aimbench.spoken_progress import EVERY, SpokenProgress
from aimbench.train.progress import Reporter


def test_a_line_comes_no_more_often_than_every_so_many_seconds() -> None:
    seconds = 0.0
    said: list[str] = []
    progress = SpokenProgress("shards", said.append, clock=lambda: seconds)
    for done in range(1, 4001):
        seconds += EVERY / 1000
        progress.move(done, 4000)
    assert len(said) == 4
    assert said[0].endswith("of 4,000")


def test_an_unknown_total_is_left_out() -> None:
    times = iter([0.0, EVERY, EVERY])
    said: list[str] = []
    SpokenProgress("places.zip, bytes", said.append, clock=lambda: next(times)).move(1_000_000, None)
    assert said == ["places.zip, bytes: 1,000,000"]


def test_a_reporter_without_a_terminal_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spoken_progress, "EVERY", 0.0)
    text = io.StringIO()
    with Reporter(Console(file=text, force_terminal=False)).task("EPG on test", 20) as task:
        task.advance(8)
        task.advance(12)
    assert text.getvalue() == "EPG on test: 8 of 20\nEPG on test: 20 of 20\n"


def test_brackets_are_text_and_a_log_has_one_line_a_message() -> None:
    text = io.StringIO()
    reporter = Reporter(Console(file=text, force_terminal=False, width=40))
    reporter.warn("classes [crab, gull] and [/foo] are rare, as are many others of this set")
    reporter.line("train 2/2  [crab]  val accuracy 0.980  worst group 0.800")
    assert text.getvalue() == (
        "warning: classes [crab, gull] and [/foo] are rare, as are many others of this set\n"
        "train 2/2  [crab]  val accuracy 0.980  worst group 0.800\n"
    )
