"""The limit of GPU memory on systems whose driver would use system memory. CUDA is simulated."""

from types import SimpleNamespace

import pytest
import torch

from acestep.core.errors import ConfigError
from acestep.core.jobs import Context
from acestep.core.paths import PROJECT
from acestep.models import memory_limit
from acestep.models.memory_limit import LIMIT_VARIABLE, limit_memory, use_device
from tests.training.runs import log_of

GB = 2**30
WINDOWS = SimpleNamespace(system="Windows", release="11")
WSL = SimpleNamespace(system="Linux", release="5.15.167.4-microsoft-standard-WSL2")
LINUX = SimpleNamespace(system="Linux", release="6.1.0-18-amd64")


@pytest.fixture
def gpu(monkeypatch):
    """A simulated CUDA device of 8 GB with 6 GB free; ``limits`` are the fractions that were set, by device."""
    found = SimpleNamespace(free=6 * GB, total=8 * GB, reserved=0, limits={}, messages=[])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (found.free, found.total))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda index: found.reserved)
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda fraction, index: found.limits.update({index: fraction})
    )
    monkeypatch.delenv(LIMIT_VARIABLE, raising=False)
    return found


@pytest.fixture
def on(monkeypatch):
    return lambda system: monkeypatch.setattr(memory_limit.platform, "uname", lambda: system)


@pytest.mark.parametrize("system", [WINDOWS, WSL])
def test_a_job_may_use_what_is_free_when_it_starts_less_a_reserve(gpu, on, system):
    on(system)
    limit_memory("cuda", gpu.messages.append)
    assert gpu.limits == {0: pytest.approx((6 - 0.375) / 8)}
    assert gpu.messages == [
        "memory of cuda limited to 5.6 GB: 6.0 of 8.0 GB were free, and beyond that Windows uses slow system memory"
    ]


def test_memory_that_this_process_holds_already_counts_as_free(gpu, on):
    on(WINDOWS)
    gpu.free, gpu.reserved = 2 * GB, 4 * GB
    limit_memory("cuda:1", gpu.messages.append)
    assert gpu.limits == {1: pytest.approx((6 - 0.375) / 8)}


def test_a_full_gpu_gives_a_limit_at_which_the_first_allocation_fails(gpu, on):
    on(WINDOWS)
    gpu.free = 0
    limit_memory("cuda", gpu.messages.append)
    assert 0 < gpu.limits[0] < 0.001


@pytest.mark.parametrize(
    ("system", "device", "setting"),
    [
        (LINUX, "cuda", ""),
        (LINUX, "cuda", "auto"),
        (WINDOWS, "cpu", ""),
        (WINDOWS, "cuda", "off"),
        (WINDOWS, "xpu", ""),
    ],
)
def test_nothing_is_limited_where_it_is_not_needed_or_not_wanted(gpu, on, monkeypatch, system, device, setting):
    on(system)
    monkeypatch.setenv(LIMIT_VARIABLE, setting)
    limit_memory(device, gpu.messages.append)
    assert (gpu.limits, gpu.messages) == ({}, [])


@pytest.mark.parametrize(("setting", "fraction"), [("4", 0.5), (" 6.0 ", 0.75), ("100", 1.0)])
def test_the_environment_variable_sets_the_limit_on_every_system(gpu, on, monkeypatch, setting, fraction):
    on(LINUX)
    monkeypatch.setenv(LIMIT_VARIABLE, setting)
    limit_memory("cuda", gpu.messages.append)
    assert gpu.limits == {0: fraction}
    assert LIMIT_VARIABLE in gpu.messages[0]


@pytest.mark.parametrize("setting", ["half", "-1", "nan", "inf"])
def test_another_value_of_the_variable_is_rejected(gpu, on, monkeypatch, setting):
    on(WINDOWS)
    monkeypatch.setenv(LIMIT_VARIABLE, setting)
    with pytest.raises(ConfigError, match=f"{LIMIT_VARIABLE} is '{setting}'") as error:
        limit_memory("cuda", gpu.messages.append)
    assert "off" in error.value.hint


def test_a_job_reports_the_limit_of_its_device(gpu, on, tmp_path):
    on(WINDOWS)
    with use_device("cuda", "training", Context(tmp_path)):
        assert gpu.limits
    assert "limited to 5.6 GB" in log_of(tmp_path)[0].message


def test_every_job_that_locks_a_device_also_limits_its_memory():
    modules = [path for path in (PROJECT / "acestep").rglob("*.py") if "lock_device(" in path.read_text("utf-8")]
    assert sorted(path.name for path in modules) == ["device_lock.py", "memory_limit.py"]
