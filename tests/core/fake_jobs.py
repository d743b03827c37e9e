"""Jobs for the tests of the job machinery."""

import os
import time

from acestep.core.config import Config, option
from acestep.core.errors import TrainingError
from acestep.core.events import Progressed
from acestep.core.jobs import JobType

TABLE = {
    name: JobType("tests.core.fake_jobs:Count", f"tests.core.fake_jobs:{name}")
    for name in ("count", "refuse", "stumble", "die")
}


class Count(Config):
    n: int = option(3, "N", "How far to count.")


def count(config, context):
    for i in range(config.n):
        context.stop_if_cancelled()
        context.emit(Progressed(done=i + 1, total=config.n))
        time.sleep(0.01)
    return {"counted": config.n}


def refuse(config, context):
    raise TrainingError("the songs are too short", hint="Bring longer ones.")


def stumble(config, context):
    return {}[config.n]


def die(config, context):
    os._exit(9)
