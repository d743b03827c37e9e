import io
from pathlib import Path

import pytest
from loguru import logger

from acestep.core.log import job_log, mask, set_up_logging


@pytest.mark.parametrize(
    "text",
    [
        "token hf_abcdefghijklmnop1234",
        "key sk-proj-ABCDEFGHIJKLMNOP",
        "xi-api-key: 0123456789abcdef",
        "https://host/v1?key=x&api_key=0123456789abcdef",
        "Authorization: Bearer 0123456789abcdef",
        "{'password': '0123456789abcdef'}",
    ],
)
def test_secrets_are_masked(text):
    assert "abcdef" not in mask(text).lower()
    assert "***" in mask(text)


def test_the_home_folder_is_masked():
    assert mask(f"read {Path.home() / 'music'}") == "read " + str(Path("~") / "music")


def test_the_terminal_shows_masked_warnings_and_a_job_has_a_separate_log(tmp_path):
    terminal = io.StringIO()
    set_up_logging(stderr=terminal)
    try:
        with job_log(tmp_path / "log.txt"):
            logger.info("inside {}", "hf_abcdefghijklmnop1234")
        logger.warning("outside {} {}", "{braces}", "hf_abcdefghijklmnop1234")
    finally:
        logger.remove()
    assert "outside {braces} hf_***" in terminal.getvalue()
    assert "inside hf_***" in (tmp_path / "log.txt").read_text()
    assert "outside" not in (tmp_path / "log.txt").read_text()
