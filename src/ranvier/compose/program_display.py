"""Programs that are lowered or compiled, live on a terminal. The only door to `rich`."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from ranvier.export.program_runs import ProgramProgress

_TITLES = {"lower": "lowering", "compile": "compiling"}


class ProgramDisplay:
    """One bar for each job, and a line for each program at work, with its elapsed and expected time."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._job = ""
        self._progress: Progress | None = None
        self._bar = TaskID(0)
        self._at_work: dict[str, TaskID] = {}

    def show(self, progress: ProgramProgress) -> None:
        """Take one event in; the display ends with the last program of a job."""
        live = self._live(progress)
        if progress.state == "started":
            expected = f"of about {progress.expected_s:.0f} s" if progress.expected_s is not None else ""
            self._at_work[progress.name] = live.add_task(f"  {progress.name}", total=None, note=expected)
        else:
            # What a process died of before it began with a program has no line.
            if progress.name in self._at_work:
                live.remove_task(self._at_work.pop(progress.name))
            live.update(self._bar, completed=progress.done)
            live.console.print(_line(progress), highlight=False, markup=False)
        if progress.done == progress.total:
            self.stop()

    def stop(self) -> None:
        """End the display where it is, and give the terminal its cursor back."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _live(self, progress: ProgramProgress) -> Progress:
        if self._progress is None or progress.job != self._job:
            self.stop()
            self._job, self._at_work = progress.job, {}
            columns = ("{task.description}", BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn())
            self._progress = Progress(*columns, TextColumn("{task.fields[note]}"), console=self._console)
            self._bar = self._progress.add_task(_TITLES[progress.job], total=progress.total, note="")
            self._progress.start()
        return self._progress


def _line(progress: ProgramProgress) -> str:
    title, count = _TITLES[progress.job], f"{progress.done}/{progress.total}"
    if progress.state == "failed":
        return f"{title} {progress.name} failed after {progress.elapsed_s:.0f} s: {progress.reason}"
    return f"{title} {count} {progress.name} {progress.seconds:.1f} s"
