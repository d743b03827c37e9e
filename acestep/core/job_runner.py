"""Starts, pauses and stops a job in a thread or in a separate process."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

from acestep.core.config import Config
from acestep.core.errors import JobBusy, WorkerCrashed
from acestep.core.events import FINAL_EVENTS, Event, Failed
from acestep.core.job_folder import JobFolder
from acestep.core.jobs import COMMAND, run_job, write_job
from acestep.core.paths import PROJECT
from acestep.core.standard_streams import utf8_environment
from acestep.core.untrusted import is_folder


class JobRunner:
    """Runs at most one job at a time, in a thread or in a separate process."""

    def __init__(self, command: list[str] | None = None) -> None:
        self._command = command or COMMAND
        self._guard = threading.Lock()
        self._thread: threading.Thread | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self.folder: Path | None = None
        self.last: Event | None = None  # the final event of the latest job that ran in a thread

    @property
    def busy(self) -> bool:
        if self._process is not None and self._process.poll() is None:
            return True
        return self._thread is not None and self._thread.is_alive()

    def start(self, job: str, config: Config, folder: Path, *, own_process: bool = False) -> None:
        """Start a job and return immediately. Raises JobBusy while another job is running."""
        with self._guard:
            if self.busy:
                raise JobBusy(
                    f"a job is already running in {self.folder}", hint="Wait until it has finished, or stop it."
                )
            write_job(folder, job, config)
            self.folder, self.last, self._thread, self._process = folder, None, None, None
            if own_process:
                with JobFolder(folder).output_path.open("wb") as output:
                    command = [*self._command, str(folder.resolve())]
                    self._process = subprocess.Popen(
                        command,
                        cwd=PROJECT,
                        env=utf8_environment(),
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                    )
            else:
                self._thread = threading.Thread(target=self._run, args=(folder,), name=f"job {job}", daemon=True)
                self._thread.start()

    def _run(self, folder: Path) -> None:
        self.last = run_job(folder)

    def poll(self, offset: int = 0) -> tuple[list[Event], int]:
        """The events since byte ``offset``, and the next offset.

        If the process of the job exited without a final event, ``Failed`` is appended, once.
        """
        if self.folder is None:
            return [], offset
        log = JobFolder(self.folder).events
        with self._guard:  # of several page sessions that poll, one appends the event
            if self._process is not None and not self.busy:
                events, _ = log.read()
                if not events or not isinstance(events[-1], FINAL_EVENTS):
                    code, output = self._process.returncode, JobFolder(self.folder).output_path
                    log.emit(
                        Failed(
                            error=WorkerCrashed.code,
                            message=f"the process exited unexpectedly, exit code {code}",
                            hint=f"Its output is in {output}.",
                            is_bug=True,
                        )
                    )
                self._process = None
        return log.read(offset)

    def pause(self) -> None:
        """Pause the job before its next sample or step. A stop ends the pause."""
        if self.folder is not None:
            JobFolder(self.folder).request_pause()

    def resume(self) -> None:
        """Resume a paused job."""
        if self.folder is not None:
            JobFolder(self.folder).request_resume()

    def cancel(self) -> None:
        """Request that the job saves and stops after its current sample or step."""
        if self.folder is not None and is_folder(self.folder):  # without its folder, the job ends anyway
            JobFolder(self.folder).request_stop()

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait until the job has ended. A process that exceeds the timeout is killed. False if the job did not end."""
        if self._thread is not None:
            self._thread.join(timeout_s)
        if self._process is not None:
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
                return False
        return not self.busy
