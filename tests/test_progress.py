import io

from rich.console import Console

from mtl_jax.progress import Progress, track


def _console(**options):
    return Console(file=io.StringIO(), width=100, **options)


def test_without_a_terminal_a_line_now_and_then(monkeypatch):
    now = iter(range(1000))
    monkeypatch.setattr("time.monotonic", lambda: float(next(now)))
    console = _console()
    with Progress("training [a]", total=100, console=console, interval=30) as progress:
        for step in range(100):
            progress.advance(loss=1 / (step + 1))
    lines = console.file.getvalue().splitlines()
    assert 3 <= len(lines) <= 6
    assert lines[0].startswith("training [a]: ")
    assert lines[-1].startswith("training [a]: 100/100, loss 0.01, ")
    assert "\x1b" not in console.file.getvalue()


def test_a_quick_job_prints_one_line():
    console = _console()
    with Progress("reading", console=console) as progress:
        progress.advance(3)
        progress.advance(4)
    (line,) = console.file.getvalue().splitlines()
    assert line.startswith("reading: 7, ")


def test_on_a_terminal_a_bar_with_numbers():
    console = _console(force_terminal=True)
    with Progress("training", total=10, completed=4, console=console) as progress:
        for _ in range(6):
            progress.advance(loss=0.25)
    text = console.file.getvalue()
    assert "10/10" in text and "loss 0.25" in text and "it/s" in text


def test_bars_can_be_nested():
    console = _console(force_terminal=True)
    with Progress("outer", total=1, console=console) as outer:
        with Progress("inner", total=2, console=console) as inner:
            inner.advance(2)
        outer.advance()
    assert "2/2" in console.file.getvalue() and "1/1" in console.file.getvalue()


def test_units_done_before_do_not_count_into_the_speed(monkeypatch):
    now = iter([0.0, 10.0, 10.0, 10.0, 10.0, 10.0])
    monkeypatch.setattr("time.monotonic", lambda: next(now))
    console = _console()
    with Progress("training", total=200, completed=100, console=console, interval=5) as progress:
        progress.advance(20)
    assert "120/200, 2 it/s, 10 s" in console.file.getvalue()


def test_track_yields_everything_and_writes_to_standard_error(capsys):
    assert list(track([1, 2, 3], "counting")) == [1, 2, 3]
    assert list(track((n for n in range(2)), "generating")) == [0, 1]
    output = capsys.readouterr()
    assert output.out == ""
    assert "counting: 3/3" in output.err and "generating: 2," in output.err
