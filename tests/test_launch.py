"""The launcher: what it opens, what it refuses, and that nothing of it stays behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import psutil
import pytest

import launch
from acestep.core.errors import ConfigError
from acestep.core.paths import PROJECT
from acestep.system.doctor import Requirement
from acestep.ui.serve import Address, prepare_environment

LOGIN = ("me", "secret-word")


def free_ports() -> int:
    """A port that is free, and the next one is, too."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


@dataclass
class Running:
    """A launcher that was started with ``--mode both``."""

    process: subprocess.Popen[str]
    port: int
    lines: list[str] = field(default_factory=list)
    torch_files: list[str] = field(default_factory=list)  # loaded before the first request

    def wait_for(self, line: str) -> None:
        end = time.monotonic() + 60
        while line not in self.lines:
            assert time.monotonic() < end, self.lines
            assert self.process.poll() is None, self.lines
            time.sleep(0.05)

    def url(self, page: str) -> str:
        return f"http://127.0.0.1:{self.port + (page == 'captioner')}"

    def family(self) -> list[psutil.Process]:
        me = psutil.Process(self.process.pid)
        return [me, *me.children(recursive=True)]


@contextmanager
def both(cache: Path) -> Iterator[Running]:
    port = free_ports()
    settings = {
        "GRADIO_TEMP_DIR": str(cache),
        "GRADIO_ALLOWED_PATHS": "/",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "ALL_PROXY": "socks5://127.0.0.1:9",
        "ACESTEP_AUTH": ":".join(LOGIN),
    }
    process = subprocess.Popen(
        [sys.executable, str(PROJECT / "launch.py"), "--mode", "both", "--port", str(port)],
        cwd=cache,
        env=os.environ | settings,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # a group of its own, as in a terminal
    )
    running = Running(process, port)
    assert process.stdout is not None
    reader = threading.Thread(target=lambda: running.lines.extend(line.rstrip("\n") for line in process.stdout or ()))
    reader.start()
    try:
        running.wait_for(running.url("captioner"))
        yield running
    finally:
        for member in running.family() if process.poll() is None else []:
            member.kill()
        process.wait()
        reader.join(10)
        process.stdout.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with both(tmp_path_factory.mktemp("cache")) as running:
        files = [file.path for process in running.family() for file in process.memory_maps()]
        running.torch_files = [file for file in files if "libtorch" in file]
        yield running


PAGES = {"trainer": "Scan Audio Directory", "captioner": "env/bin/python -m acestep scan"}  # and words on them


def test_the_first_address_printed_is_the_trainers_alone_on_its_line(pages: Running) -> None:
    addresses = [line for line in pages.lines if "http" in line]
    assert addresses == [pages.url("trainer"), pages.url("captioner")]
    assert [line for line in pages.lines if line.startswith("READY")]


def test_an_unusable_proxy_is_reported(pages: Running) -> None:
    assert any("ALL_PROXY is not used" in line for line in pages.lines)


@pytest.mark.parametrize("page", PAGES)
def test_each_page_opens_after_the_login_and_not_before(pages: Running, page: str) -> None:
    with httpx2.Client(base_url=pages.url(page), trust_env=False, follow_redirects=True) as browser:
        assert browser.get("/config").status_code == 401
        browser.post("/login", data={"username": LOGIN[0], "password": LOGIN[1]})
        assert browser.get("/config").json()["title"] == f"ACE-Step {page}"
        assert PAGES[page] in browser.get("/").text
        assert browser.get("/gradio_api/file=/etc/hostname").status_code == 403


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"},
    ],
)
def test_requests_of_other_web_pages_are_rejected(pages: Running, page: str, headers: dict[str, str]) -> None:
    assert httpx2.get(pages.url(page), headers=headers, trust_env=False).status_code == 403


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("path", ["/gradio_api/upload", "/gradio_api/queue/join", "/gradio_api/call/stop", "/login"])
@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Origin": "http://127.0.0.1:1"}])
def test_other_web_pages_can_neither_send_files_nor_start_anything(
    pages: Running, page: str, path: str, headers: dict[str, str]
) -> None:
    sent = httpx2.post(pages.url(page) + path, headers=headers, files={"files": b"music"}, trust_env=False)
    assert sent.status_code == 403


def test_responses_restrict_the_browser_to_this_server(pages: Running) -> None:
    answer = httpx2.get(pages.url("trainer"), trust_env=False)
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_login_is_not_visible_in_the_process_list(pages: Running) -> None:
    assert len(pages.family()) == 2
    for process in pages.family():
        assert LOGIN[1] not in " ".join(process.cmdline())


def test_a_page_opens_without_importing_torch(pages: Running) -> None:
    assert len(pages.family()) == 2
    assert pages.torch_files == []


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_remains_after_the_launcher_exits(tmp_path: Path, kind: signal.Signals) -> None:
    with both(tmp_path) as running:
        captioner = running.family()[1:]
        running.process.send_signal(kind)
        assert running.process.wait(5) == (0 if kind == signal.SIGTERM else -signal.SIGKILL)
        assert psutil.wait_procs(captioner, timeout=5)[1] == []
    assert not [line for line in running.lines if "Traceback" in line or "Fatal" in line]


def test_ctrl_c_stops_both_pages(tmp_path: Path) -> None:
    with both(tmp_path) as running:
        captioner = running.family()[1:]
        assert len(captioner) == 1
        os.killpg(running.process.pid, signal.SIGINT)  # a terminal tells both processes
        assert running.process.wait(10) == 0
        assert psutil.wait_procs(captioner, timeout=5)[1] == []
    assert not [line for line in running.lines if "Traceback" in line or "Fatal" in line]


def test_a_killed_captioner_leaves_the_trainer_open(tmp_path: Path) -> None:
    with both(tmp_path) as running:
        running.family()[1].kill()
        running.wait_for("The captioner exited with code -9; the trainer keeps running.")
        assert httpx2.get(running.url("trainer"), trust_env=False).status_code == 200
        with pytest.raises(httpx2.ConnectError):
            httpx2.get(running.url("captioner"), trust_env=False)
        os.killpg(running.process.pid, signal.SIGINT)
        assert running.process.wait(10) == 0


def test_the_checks_before_start_need_only_the_standard_library() -> None:
    command = [sys.executable, "-S", "launch.py", "--help"]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "--mode {train,caption,both}" in result.stdout
    assert "skip-env-check" not in result.stdout


def test_a_missing_package_is_reported_with_a_hint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch, "read_requirements", lambda: [Requirement("no-such-package", "1.0")])
    assert launch.main([]) == 1
    said = capsys.readouterr()
    assert "no-such-package: not installed. Run ./install.sh." in said.err
    assert "http" not in said.out


def test_check_lists_what_is_installed_and_starts_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.main(["--check"]) == 0
    assert "torch: 2.11" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["--share"], ["--host", "0.0.0.0"], ["--host", "192.168.0.7"], ["--host", "::"], ["--host", ""]]
)
def test_other_computers_require_a_login(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.main(arguments) == 1
    assert "--auth NAME:PASSWORD" in capsys.readouterr().err


@pytest.mark.parametrize("login", ["me", "me:", ":word"])
def test_an_incomplete_login_is_rejected(login: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.main(["--auth", login]) == 1
    assert "NAME:PASSWORD" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("mode", "taken", "chosen"),
    [("train", 0, True), ("both", 1, True), ("train", 7861, False), ("caption", 7862, False)],
)
def test_a_port_in_use_is_reported_in_one_line(
    mode: str, taken: int, chosen: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_ports() if chosen else 0
    with socket.socket() as holder:
        try:
            holder.bind(("127.0.0.1", port + taken))
            holder.listen()
        except OSError:
            assert not chosen  # somebody else has the default port: just as well
        assert launch.main(["--mode", mode, *(["--port", str(port)] if chosen else [])]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert f"port {port + taken} of 127.0.0.1 cannot be opened" in line
    assert "--port" in line


def test_an_invalid_port_is_rejected() -> None:
    with pytest.raises(ConfigError, match="70000"):
        Address(port=70000)


def test_the_address_shown_is_one_for_this_computer() -> None:
    assert Address().url == "http://127.0.0.1:7861"
    assert Address("::1", 80).url == "http://[::1]:80"
    assert Address("0.0.0.0", 80, auth=LOGIN).url == "http://127.0.0.1:80"


def test_the_environment_is_prepared_without_undoing_what_the_user_set() -> None:
    environment = {
        "NO_PROXY": "intranet, 127.0.0.1",
        "ALL_PROXY": "socks5h://proxy:1",
        "https_proxy": "http://proxy:2",
        "GRADIO_TEMP_DIR": "/somewhere",
        "GRADIO_ANALYTICS_ENABLED": "True",
        "GRADIO_ALLOWED_PATHS": "/",
    }
    notes = prepare_environment(environment)
    assert environment == {
        "NO_PROXY": "intranet,127.0.0.1,localhost,::1",
        "no_proxy": "intranet,127.0.0.1,localhost,::1",
        "https_proxy": "http://proxy:2",
        "GRADIO_TEMP_DIR": "/somewhere",
        "GRADIO_ANALYTICS_ENABLED": "False",
        "FORWARDED_ALLOW_IPS": "",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    assert notes == ["ALL_PROXY is not used: SOCKS proxies are not supported"]
