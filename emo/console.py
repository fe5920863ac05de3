"""What a person sees while a job runs: tables and progress bars in a terminal, plain lines elsewhere."""

import functools
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress
from rich.table import Table

PLAIN_SECONDS = 10.0
"""Without a terminal, a progress line is printed at most this often."""


@functools.cache
def console() -> Console:
    return Console(highlight=False, soft_wrap=True)


def say(text: str) -> None:
    console().print(text, markup=False)


def warn(text: str) -> None:
    console().print(f"warning: {text}", style="yellow", markup=False)


def show_facts(title: str, facts: list[tuple[str, str]]) -> None:
    """A title and a two-column list; outside a terminal each fact is one line, however long."""
    console().print(f"\n{title}", style="bold", markup=False)
    if not console().is_terminal:
        width = max(len(name) for name, _ in facts)
        for name, value in facts:
            say(f"{name:<{width}}  {value}")
        return
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in facts:
        grid.add_row(name, value)
    console().print(grid)


def show_table(title: str, header: list[str], rows: list[list[str]]) -> None:
    """A table whose first column is text and whose others are figures."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for i, name in enumerate(header):
        table.add_column(name, justify="right" if i else "left", no_wrap=i == 0)
    for row in rows:
        table.add_row(*row)
    # outside a terminal rich takes 80 columns, which would fold the names
    Console(highlight=False, width=None if console().is_terminal else 120).print(table)


def duration(seconds: float) -> str:
    """Seconds in the two units that matter, as in ``3 min 20 s``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Progress:
    """So many of so many done, the rate, and the time left."""

    def __init__(self, what: str, total: int, already_done: int = 0) -> None:
        self.what, self.total, self.done, self.already_done = what, total, already_done, already_done
        self.started = self.last_line = time.monotonic()
        self.bar: RichProgress | None = None
        if already_done:
            say(f"{what}: {already_done:,} of {total:,} were done before")
        if console().is_terminal and total > already_done:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            note = TextColumn("{task.fields[note]}")
            self.bar = RichProgress(*columns, note, console=console(), transient=True)
            self.task = self.bar.add_task(what, total=total, completed=already_done, note="")
            self.bar.start()

    def advance(self, count: int) -> None:
        self.done += count
        if self.bar:
            self.bar.update(self.task, completed=self.done, note=self._note())
        elif time.monotonic() - self.last_line >= PLAIN_SECONDS:
            self.last_line = time.monotonic()
            say(f"{self.what} {self.done:,}/{self.total:,}, {self._note()}")

    @property
    def rate(self) -> float:
        """Done in a second, since this process started."""
        return (self.done - self.already_done) / max(1e-9, time.monotonic() - self.started)

    def _note(self) -> str:
        left = (self.total - self.done) / max(1e-9, self.rate)
        return f"{self._pace()}, {duration(left)} left"

    def _pace(self) -> str:
        return f"{self.rate:,.0f} a second" if self.rate >= 1 else f"{60 * self.rate:,.0f} a minute"

    def stop(self) -> None:
        if self.bar:
            self.bar.stop()
        if self.done > self.already_done:
            say(f"{self.what}: {self.done:,} of {self.total:,}, {self._pace()}")


class TrialProgress:
    """Trials done by encoder, the best value so far, and the time left."""

    def __init__(self, total: int, already_done: int = 0) -> None:
        self.total, self.already_done = total, already_done
        self.started = self.last_line = time.monotonic()
        self.bar: RichProgress | None = None
        if console().is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self.bar = RichProgress(*columns, TextColumn("{task.fields[note]}"), console=console())
            self.task = self.bar.add_task("trials", total=total, completed=already_done, note="")
            self.bar.start()

    def update(self, done: int, best: float | None, by_encoder: dict[str, int], failed: int) -> None:
        if self.bar:
            self.bar.update(self.task, completed=done, note=self._note(done, best, failed))
        elif time.monotonic() - self.last_line >= PLAIN_SECONDS or done >= self.total:
            self.last_line = time.monotonic()
            counts = ", ".join(f"{name} {count}" for name, count in by_encoder.items())
            say(f"trials {done}/{self.total} ({counts}); {self._note(done, best, failed)}")

    def show_epoch(self, encoder: str, epoch: int, value: float) -> None:
        """How a training fares that takes long enough to be asked."""
        if self.bar is None and time.monotonic() - self.last_line >= PLAIN_SECONDS:
            self.last_line = time.monotonic()
            say(f"{encoder}: epoch {epoch}, val macro F1 {value:.3f} so far")

    def _note(self, done: int, best: float | None, failed: int) -> str:
        rate = (time.monotonic() - self.started) / max(1, done - self.already_done)
        parts = [f"best val macro F1 {best:.3f}"] if best is not None else []
        parts += [f"{failed} failed"] if failed else []
        parts += [f"{duration(rate * (self.total - done))} left"] if done < self.total else []
        return ", ".join(parts)

    def stop(self) -> None:
        if self.bar:
            self.bar.stop()


def figure(value: Any) -> str:
    """A score as tables show it."""
    return "–" if value is None else f"{value:.3f}"
