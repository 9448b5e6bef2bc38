import time

import pytest

from llasa_jax import console


def test_track_yields_everything_and_reports_once_off_a_terminal(capsys):
    assert list(console.track([3, 1, 2], "Counting", unit="files")) == [3, 1, 2]
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("Counting: 3 files in 0:00")


def test_plain_lines_are_throttled_and_show_rate_time_left_and_info(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with console.bar("Training", total=100, unit="steps") as shown:
        for _ in range(40):
            now[0] += 1.0
            shown.advance(loss=1.23456, stage="warm")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Training: 15/100 steps, 1.0 steps/s, 1:25 left  loss 1.235  stage warm"
    assert len(lines) == 3  # after 15 s, after 30 s, at the end


def test_a_resumed_bar_counts_only_its_own_work_for_the_rate(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with console.bar("Training", total=100, unit="steps", done=90) as shown:
        now[0] = 20.0
        shown.advance(5)
    first, last = capsys.readouterr().err.splitlines()
    assert first == "Training: 95/100 steps, 4.0 s each, 0:20 left"
    assert last == "Training: 95 steps in 0:20 (4.0 s each)"


def test_an_exception_passes_through_without_a_summary(capsys):
    with pytest.raises(KeyError), console.bar("Training", unit="steps"):
        raise KeyError
    assert capsys.readouterr().err == ""


def test_log_prints_brackets_as_they_are(capsys):
    console.log("skipped a[1].wav: [red]broken[/red]")
    assert capsys.readouterr().err == "skipped a[1].wav: [red]broken[/red]\n"


def test_a_terminal_gets_a_bar_and_log_lines_above_it(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with console.bar("Training [x]", total=2, unit="steps") as shown:
        shown.advance(loss=0.5)
        console.log("half way")
        for _ in console.track([1], "Inner"):
            pass
    text = capsys.readouterr().err
    assert "half way" in text and "Training [x]" in text and "1/2" in text
    assert "Inner: 1 it in" in text


def test_a_silent_process_shows_nothing(capsys, monkeypatch):
    monkeypatch.setattr(console, "_silent", False)
    console.silence()
    console.log("a line")
    list(console.track([1, 2], "Counting"))
    assert capsys.readouterr().err == ""
