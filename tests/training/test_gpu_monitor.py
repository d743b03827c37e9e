import os
import re
import subprocess
import sys
import threading
import time

import pytest

from acestep.training.gpu_monitor import (
    HISTORY,
    GPUMonitor,
    GPUSnapshot,
    detect_gpu,
    get_available_vram_mb,
    vram_status,
)
from acestep.training.nvidia_smi import driver_version, gpu_memory, other_processes

TOTAL_MB = 10_000.0


def reading(used_mb, allocated_mb=100.0, reserved_mb=200.0):
    return GPUSnapshot(1.0, allocated_mb, reserved_mb, free_mb=TOTAL_MB - used_mb, total_mb=TOTAL_MB)


class Readings:
    """Gives these fills of the card one after the other, in percent, then None as if the card were gone."""

    def __init__(self, *fills):
        self._left = iter(fills)
        self.all_given = threading.Event()

    def __call__(self):
        fill = next(self._left, None)
        if fill is None:
            self.all_given.set()
            return None
        return reading(TOTAL_MB * fill / 100)


def alerts_of(monitor, readings):
    """What a monitor says while its own thread takes all the readings."""
    alerts = []
    monitor.start(alerts.append)
    assert readings.all_given.wait(10)
    monitor.stop()
    return alerts


def test_an_alert_comes_once_and_again_only_after_the_memory_was_free_for_a_while():
    readings = Readings(50, 91.9, 92, 99, 85, 95, 82.7, 93, 100)
    alerts = alerts_of(GPUMonitor(read=readings, poll_interval_sec=0.001), readings)
    assert [round(alert.utilization_pct, 1) for alert in alerts] == [92.0, 93.0]


def test_the_threshold_can_be_chosen():
    readings = Readings(70)
    alerts = alerts_of(GPUMonitor(alert_threshold_pct=60.0, poll_interval_sec=0.001, read=readings), readings)
    assert [alert.used_mb for alert in alerts] == [7000.0]


def test_readings_cover_the_whole_gpu():
    taken = reading(used_mb=9000, allocated_mb=100)
    assert taken.utilization_pct == pytest.approx(90)
    assert taken.used_mb == 9000


def test_the_history_is_bounded_and_the_summary_is_over_all_readings():
    fills = [100, *[50] * (HISTORY + 9)]
    monitor = GPUMonitor(read=Readings(*fills))
    for _ in fills:
        monitor.snapshot()
    assert len(monitor.history) == HISTORY
    summary = monitor.get_summary()
    assert summary["num_snapshots"] == len(fills)
    assert summary["peak_used_mb"] == TOTAL_MB
    assert summary["avg_utilization_pct"] == pytest.approx(sum(fills) / len(fills))


def test_the_summary_has_the_peaks_and_averages():
    readings = iter([reading(4000, 1000, 3000), reading(6000, 3000, 3500), reading(5000, 2000, 2000)])
    monitor = GPUMonitor(read=lambda: next(readings, None))
    for _ in range(3):
        monitor.snapshot()
    assert monitor.get_current() == reading(5000, 2000, 2000)
    assert monitor.get_summary() == {
        "peak_allocated_mb": 3000,
        "peak_reserved_mb": 3500,
        "peak_used_mb": 6000,
        "avg_allocated_mb": 2000,
        "avg_utilization_pct": pytest.approx(50),
        "num_snapshots": 3,
        "total_mb": TOTAL_MB,
    }
    text = monitor.format_summary()
    assert "5.9 of 9.8 GB" in text
    assert "3 readings" in text


def test_a_reset_clears_the_history_and_rearms_the_alert():
    monitor = GPUMonitor(read=lambda: reading(9500))
    for _ in range(2):
        alerts = []
        monitor.start(alerts.append)
        while not alerts:
            time.sleep(0.001)
        monitor.stop()
        monitor.reset()
        assert monitor.get_summary() == {}
        assert monitor.format_summary() == "No GPU data collected"


def test_without_a_gpu_the_monitor_stops_and_collects_nothing():
    monitor = GPUMonitor(read=lambda: None, poll_interval_sec=0.001)
    monitor.start()
    monitor.stop()
    assert monitor.snapshot() is None
    assert monitor.get_current() is None
    assert monitor.format_summary() == "No GPU data collected"


def test_stopping_waits_for_the_thread_and_a_monitor_can_start_again():
    monitor = GPUMonitor(read=lambda: reading(1), poll_interval_sec=60.0)
    for _ in range(2):
        monitor.start()
        monitor.stop()
    assert "GPU monitor" not in [thread.name for thread in threading.enumerate()]


def test_an_alert_may_stop_the_monitor():
    seen = threading.Event()
    monitor = GPUMonitor(read=lambda: reading(TOTAL_MB), poll_interval_sec=0.001)

    def alert(_):
        monitor.stop()
        seen.set()

    monitor.start(alert)
    assert seen.wait(10)


def test_the_example_of_the_guide_runs_as_shown(capsys):
    gpu_info = detect_gpu()
    free_mb = get_available_vram_mb()
    monitor = GPUMonitor(alert_threshold_pct=90.0, poll_interval_sec=5.0)
    monitor.start()
    monitor.stop()
    text = monitor.format_summary()
    assert set(gpu_info) == {"name", "compute_capability", "driver_version", "total_memory_gb", "backend"}
    assert all(isinstance(value, str) for value in gpu_info.values())
    if gpu_info["backend"] in ("cuda", "xpu"):
        assert free_mb > 0
        assert float(gpu_info["total_memory_gb"]) > 0
        assert re.match("GPU memory: at most ", text)
    else:
        assert free_mb == 0
        assert text == "No GPU data collected"


@pytest.fixture
def fake_tool(tmp_path, monkeypatch):
    """Puts an ``nvidia-smi`` of a few shell lines in front of all others."""

    def put(script):
        tool = tmp_path / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    return put


ANSWERS = rf"""echo "$@" >> "$(dirname "$0")/asked"
case "$1" in
*driver_version) echo 570.86.15 ;;
*memory.used,memory.total,name) echo "3072, 24576, NVIDIA GeForce RTX 4090" ;;
*) printf '%s\n' "{os.getpid()}, 512, python" "41, 1024, /usr/bin/Xorg, the server" \
   "42, 2048, C:\Games\game.exe" "43, [N/A], [Insufficient Permissions]" ;;
esac"""


def test_other_programs_on_the_gpu_are_listed_largest_first(fake_tool):
    fake_tool(ANSWERS)
    found = other_processes()
    assert [(other.name, other.pid, other.memory_gb) for other in found] == [
        ("game.exe", 42, 2.0),
        ("Xorg, the server", 41, 1.0),
        ("[Insufficient Permissions]", 43, None),
    ]


def test_the_gpu_status_fits_on_one_line(fake_tool):
    fake_tool(ANSWERS)
    status = vram_status()
    assert (status.name, status.used_gb, status.total_gb, status.level) == ("NVIDIA GeForce RTX 4090", 3, 24, "ample")
    assert str(status).startswith(
        "NVIDIA GeForce RTX 4090: 3.0 of 24.0 GB used (12 %), 21.0 GB free; other processes: game"
    )
    assert driver_version() == "570.86.15"


def test_the_visible_gpu_is_queried(fake_tool, tmp_path, monkeypatch):
    fake_tool(ANSWERS)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    vram_status()
    assert all(line.endswith("-i 3") for line in (tmp_path / "asked").read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("script", ["exit 9", "echo 'No devices were found'; exit 6", "echo 1, 2", "echo a, b, c"])
def test_a_tool_that_fails_or_gives_invalid_output_gives_no_reading(fake_tool, script):
    fake_tool(script)
    assert gpu_memory() is None
    assert other_processes() == []


def test_a_tool_that_hangs_times_out(fake_tool, monkeypatch):
    fake_tool("exec sleep 30")
    monkeypatch.setattr("acestep.training.nvidia_smi.TIMEOUT_S", 0.2)
    assert other_processes() == []


def test_the_gpu_status_needs_no_torch(tmp_path):
    code = (
        "import sys; from acestep.training.gpu_monitor import vram_status\n"
        "print(vram_status()); sys.exit('torch' in sys.modules)"
    )
    path = {**os.environ, "PATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, env=path, check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.strip()) == (0, "None"), done.stderr
