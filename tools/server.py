"""Starts a real ComfyUI server in its own process and stops it again, whatever happens in between."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from .. import standalone
from . import comfyui as installation

START_TIMEOUT = 300.0  # seconds; two idle cores need 10, but a machine may be busy
STOP_TIMEOUT = 10.0
TAIL_LINES = 40


class ServerError(RuntimeError):
    """The server did not start, or died; the message ends with the tail of its log."""


class Server:
    """ComfyUI's server as a context manager: ``with Server(comfyui, scratch) as server: ... server.address``.

    It listens on a free port of 127.0.0.1. Outputs, temporary files, the user's settings, the database and `log` lie
    under `scratch`, so that a ComfyUI that somebody works with is not touched. `base` is a folder to take models and
    custom_nodes from instead of `comfyui`'s own. Of the packs there only those in `packs` are loaded.
    """

    def __init__(
        self,
        comfyui: Path,
        scratch: Path,
        *,
        base: Path | None = None,
        packs: Sequence[str] = (standalone.PACKAGE,),
        extra_args: Sequence[str] = (),
        start_timeout: float = START_TIMEOUT,
    ) -> None:
        self.comfyui = comfyui
        self.scratch = scratch.absolute()
        self.log = self.scratch / "server.log"
        self.start_timeout = start_timeout
        self.port = _free_port()
        self.command = [sys.executable, str(comfyui / "main.py"), *self._arguments(base, packs), *extra_args]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Host and port, as in ``127.0.0.1:8188``."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The server's process. Raises ServerError where it does not run."""
        self.check_alive()
        assert self._process is not None
        return self._process.pid

    @property
    def output(self) -> Path:
        """The folder that SaveImage writes to."""
        return self.scratch / "output"

    def __enter__(self) -> Server:
        for folder in (self.output, self.scratch / "user", self.scratch / "temp"):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"}
        environment.pop("PYTHONSAFEPATH", None)  # main.py imports its neighbours
        with self.log.open("wb") as log:
            # A group of its own: Ctrl-C in the terminal is ours to handle, by stopping the server in __exit__.
            self._process = subprocess.Popen(
                self.command,
                cwd=self.scratch,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=sys.platform != "win32",
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends the server's process, by force if it takes longer than `STOP_TIMEOUT`; harmless when it has ended."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def check_alive(self) -> None:
        """Raises ServerError if the process has ended."""
        status = self._process.poll() if self._process else None
        if self._process is None or status is not None:
            raise ServerError(f"ComfyUI's server ended with status {status}.\n{self.tail()}")

    def tail(self, lines: int = TAIL_LINES) -> str:
        """The last lines of the server's log, under a heading that names the file."""
        text = self.log.read_bytes().decode("utf-8", errors="replace") if self.log.is_file() else ""
        # A progress bar is one line that was drawn many times, with \r in between.
        drawn = [line.rstrip("\r").rpartition("\r")[2] for line in text.rstrip().split("\n")]
        return f"--- the end of {self.log}\n" + "\n".join(drawn[-lines:])

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self.start_timeout
        while not self._answers():
            self.check_alive()
            if time.monotonic() > deadline:
                raise ServerError(
                    f"ComfyUI's server did not answer on {self.address} in {self.start_timeout:.0f} s.\n{self.tail()}"
                )
            time.sleep(0.2)

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/queue")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _arguments(self, base: Path | None, packs: Sequence[str]) -> list[str]:
        """The options for the command line, without those that this version of ComfyUI does not know."""
        database = (self.scratch / "comfyui.db").as_posix()
        wanted: list[list[str]] = [
            ["--listen", "127.0.0.1"],
            ["--port", str(self.port)],
            ["--disable-auto-launch"],
            ["--disable-api-nodes"],
            ["--disable-all-custom-nodes"],
            ["--whitelist-custom-nodes", *packs],
            ["--output-directory", str(self.output)],
            ["--temp-directory", str(self.scratch)],  # ComfyUI appends /temp
            ["--user-directory", str(self.scratch / "user")],
            ["--database-url", f"sqlite:///{database}"],
        ]
        if base is not None:
            wanted.append(["--base-directory", str(base)])
        if not standalone.has_gpu():
            wanted.append(["--cpu"])
        known = installation.options(self.comfyui)
        return [argument for option in wanted if option[0] in known for argument in option]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
