"""Jobs for the tests of core."""

import os
import time

from acestep.core.config import Config, option
from acestep.core.errors import TrainingError
from acestep.core.events import Progressed
from acestep.core.jobs import JobType

TABLE = {
    name: JobType("tests.core.fake_jobs:Count", f"tests.core.fake_jobs:run_{name}")
    for name in ("count", "fail", "crash", "exit")
}


class Count(Config):
    n: int = option(3, "N", "How far to count.")


def run_count(config, context):
    for i in range(config.n):
        context.stop_if_cancelled()
        context.emit(Progressed(done=i + 1, total=config.n))
        time.sleep(0.01)
    return {"counted": config.n}


def run_fail(config, context):
    raise TrainingError("the samples are too short", hint="Use longer files.")


def run_crash(config, context):
    return {}[config.n]


def run_exit(config, context):
    os._exit(9)
