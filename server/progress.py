"""Progress bars on stderr: frames of a video, files of a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from server.video_options import OnProgress
from server.video_options import Progress as VideoProgress


@contextmanager
def video_bar(console: Console, name: str) -> Iterator[OnProgress]:
    """A bar that shows frames, frames per second and what is left; yields who feeds it."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("frames  {task.fields[fps]:5.1f} fps  ETA {task.fields[eta]}"),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(Text(name).plain, total=None, fps=0.0, eta="-:--")

        def on_progress(progress: VideoProgress) -> None:
            bar.update(
                task,
                completed=progress.frames,
                total=max(progress.frames_total or 0, progress.frames),
                fps=progress.fps,
                eta=_clock(progress.eta_seconds),
            )

        yield on_progress


@contextmanager
def folder_bar(console: Console, count: int) -> Iterator[Callable[[str], None]]:
    """A bar over files; yields a function to call with a name before each of them."""
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("pictures  ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=count)
        begun = 0

        def on_start(name: str) -> None:
            nonlocal begun
            bar.update(task, completed=begun, description=name)
            begun += 1

        yield on_start
        bar.update(task, completed=count, description="")


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "-:--"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
