"""The three online services, tested with a local fake server."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from acestep.captioning import api_keys
from acestep.captioning.api_keys import find_key, has_key, remember_key
from acestep.captioning.backends import CAPTIONERS, TRANSCRIBERS, online_services
from acestep.captioning.costs import cost_note
from acestep.captioning.elevenlabs import ElevenLabsTranscriber
from acestep.captioning.gemini import GeminiCaptioner
from acestep.captioning.service_client import RetryPolicy
from acestep.captioning.whisper import WhisperTranscriber
from acestep.core.errors import AudioError, ConfigError, JobCancelled, ServiceError, ServiceRefused
from tests.fake_cloud import ANSWER, CAPTION, KEY, fake_cloud

SERVICES = {"whisper": WhisperTranscriber, "elevenlabs": ElevenLabsTranscriber, "gemini": GeminiCaptioner}
LYRICS = "[Verse]\nHold me now\nagain"


@pytest.fixture(autouse=True)
def no_keys(monkeypatch):
    for service in online_services().values():
        for name in service.key_variables:
            monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(api_keys, "_typed_keys", {})


@pytest.fixture
def song(tmp_path):
    path = tmp_path / "song.wav"
    soundfile.write(path, np.random.default_rng(0).standard_normal(16_000 * 2) * 0.1, 16_000)
    return path


class Waits(list):
    """Records waits instead of sleeping."""

    def __call__(self, seconds):
        self.append(seconds)


def make_service(name, cloud, *, key=KEY, retries=2, timeout_s=20.0):
    waits = Waits()
    retry_policy = RetryPolicy(retries=retries, timeout_s=timeout_s, wait=waits)
    url = f"{cloud.url}/v1" if name == "whisper" else cloud.url
    return SERVICES[name](api_key=key, base_url=url, retry_policy=retry_policy), waits


def label(service, path):
    """Lyrics and language that a service returns for a song."""
    if isinstance(service, GeminiCaptioner):
        answer = service.analyze(path)
        return answer["lyrics"], answer["language"]
    return service.transcribe(path)


each = pytest.mark.parametrize("name", list(SERVICES))


@each
def test_a_song_is_transcribed(name, song):
    with fake_cloud() as cloud:
        service, waits = make_service(name, cloud)
        assert label(service, str(song)) == ("[Verse]\nHold me now" if name == "gemini" else LYRICS, "en")
        assert waits == []


@each
def test_a_wrong_key_is_not_retried_and_not_in_the_message(name, song):
    with fake_cloud("401") as cloud:
        service, waits = make_service(name, cloud)
        with pytest.raises(ServiceRefused, match="401") as caught:
            label(service, song)
        assert (waits, len(cloud.requests)) == ([], 1)
        assert KEY not in str(caught.value)
        assert "key" in caught.value.hint


@each
def test_a_rate_limited_request_is_retried_after_the_requested_time(name, song):
    with fake_cloud("429:7") as cloud:
        service, waits = make_service(name, cloud)
        assert label(service, song)[1] == "en"
        assert waits == [7.0]


@each
def test_exhausted_credit_is_not_retried(name, song):
    with fake_cloud("quota") as cloud:
        service, waits = make_service(name, cloud)
        with pytest.raises(ServiceRefused) as caught:
            label(service, song)
        assert "credit" in caught.value.hint
        assert waits == []


@each
def test_a_long_rate_limit_is_reported_instead_of_waited_for(name, song):
    with fake_cloud("429:3600") as cloud:
        service, waits = make_service(name, cloud)
        with pytest.raises(ServiceError, match="3600 s"):
            label(service, song)
        assert waits == []


@each
def test_server_errors_are_retried_with_backoff_and_then_reported(name, song):
    with fake_cloud("500", "500", "500") as cloud:
        service, waits = make_service(name, cloud)
        with pytest.raises(ServiceError, match=r"500.*tried 3 times"):
            label(service, song)
        assert len(waits) == 2
        assert waits[1] > waits[0] * 1.2


@each
def test_a_timeout_is_retried(name, song):
    with fake_cloud("timeout") as cloud:
        service, waits = make_service(name, cloud, timeout_s=0.3)
        assert label(service, song)[1] == "en"
        assert len(waits) == 1


@each
def test_a_malformed_response_is_retried_and_then_reported(name, song):
    with fake_cloud("malformed", "malformed", "malformed") as cloud:
        service, _ = make_service(name, cloud)
        with pytest.raises(ServiceError, match="not JSON"):
            label(service, song)
        assert label(service, song)[1] == "en"


@each
def test_an_unreachable_service_is_reported(name, song):
    with fake_cloud() as cloud:
        pass
    service, _ = make_service(name, cloud, retries=0)
    with pytest.raises(ServiceError, match="cannot be reached"):
        label(service, song)


@each
def test_redirects_are_not_followed_so_the_key_stays_private(name, song):
    with fake_cloud("redirect") as cloud:
        service, _ = make_service(name, cloud)
        with pytest.raises(ServiceError, match="302"):
            label(service, song)


@pytest.mark.parametrize("name", ["whisper", "elevenlabs"])
def test_a_response_without_words_means_instrumental(name, song):
    with fake_cloud("empty") as cloud:
        service, _ = make_service(name, cloud)
        assert service.transcribe(song)[0] == "[Instrumental]"


def test_an_empty_gemini_response_is_an_error(song):
    with fake_cloud("empty", "empty", "empty") as cloud:
        service, _ = make_service("gemini", cloud)
        with pytest.raises(ServiceError, match="empty response"):
            service.analyze(song)


@each
def test_a_file_larger_than_25_mb_is_uploaded(name, tmp_path):
    path = tmp_path / "long.wav"
    sound = np.random.default_rng(0).standard_normal((48_000 * 35, 2)) * 0.1
    soundfile.write(path, sound, 48_000, subtype="DOUBLE")
    assert path.stat().st_size > 25 * 2**20
    with fake_cloud() as cloud:
        service, _ = make_service(name, cloud)
        assert label(service, path)[1] == "en"
        if name == "whisper":  # the upload limit is 25 MB, so an MP3 is sent
            assert 0 < len(cloud.requests[0].fields["file"]) < 2 * 2**20
        elif name == "elevenlabs":
            assert len(cloud.requests[0].fields["file"]) == path.stat().st_size
        else:
            assert cloud.deleted == ["abc"]
            assert cloud.files == {}


def test_an_uploaded_file_is_deleted_after_a_failure(tmp_path):
    path = tmp_path / "long.mp3"
    path.write_bytes(b"x" * (15 * 2**20))
    with fake_cloud("500", "500", "500") as cloud:
        service, _ = make_service("gemini", cloud)
        with pytest.raises(ServiceError):
            service.analyze(path)
        assert cloud.deleted == ["abc"]


def test_gemini_values_are_validated(song):
    with fake_cloud() as cloud:
        service, _ = make_service("gemini", cloud)
        assert service.analyze(song) == {
            "caption": CAPTION,
            "genre": "synthwave",
            "bpm": 118,
            "keyscale": "F# Minor",
            "timesignature": "4",
            "language": "en",
            "lyrics": "[Verse]\nHold me now",
        }
        cloud.answer = {**ANSWER, "bpm": 9999, "keyscale": "none", "timesignature": "?", "language": "Klingon"}
        invalid = service.analyze(song)
        assert (invalid["bpm"], invalid["keyscale"], invalid["timesignature"]) == (None, "", "")
        assert invalid["language"] == "unknown"


def test_gemini_lyrics_are_requested_only_with_include_lyrics(song):
    with fake_cloud() as cloud:
        service, _ = make_service("gemini", cloud)
        assert service.analyze(song, include_lyrics=False)["lyrics"] == ""
        service.analyze(song)
        schemas = [request.json["generationConfig"]["responseSchema"]["required"] for request in cloud.requests]
        assert ["lyrics" in schema for schema in schemas] == [False, True]


def test_a_blocked_song_is_reported_with_the_reason(song):
    with fake_cloud({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}) as cloud:
        service, waits = make_service("gemini", cloud)
        with pytest.raises(ServiceError, match="PROHIBITED_CONTENT"):
            service.analyze(song)
        assert waits == []


@pytest.mark.parametrize("name", ["whisper", "elevenlabs"])
def test_a_known_language_is_sent_to_the_service(name, song):
    with fake_cloud() as cloud:
        service, _ = make_service(name, cloud)
        service.transcribe(song, language="de")
        fields = cloud.requests[0].fields
        assert b"de" in (fields.get("language"), fields.get("language_code"))


@pytest.mark.parametrize("name", ["whisper", "elevenlabs"])
def test_a_folder_is_transcribed_and_a_failed_song_is_skipped(name, song):
    (song.parent / "broken.mp3").write_bytes(b"")
    (song.parent / "z.wav").write_bytes(song.read_bytes())
    (song.parent / "notes.txt").write_text("not a song")
    with fake_cloud("ok", "empty") as cloud:
        service, _ = make_service(name, cloud)
        results = service.transcribe_directory(str(song.parent), language="en")
    assert [result["filename"] for result in results] == ["broken.mp3", "song.wav", "z.wav"]
    assert "is empty" in results[0]["error"]
    assert results[1]["lyrics"] == LYRICS
    assert (song.parent / "song.lyrics.txt").read_text(encoding="utf-8") == LYRICS + "\n"
    assert not (song.parent / "z.lyrics.txt").exists()
    assert not (song.parent / "broken.lyrics.txt").exists()


def test_gemini_writes_captions_lyrics_and_json_for_a_folder(song, tmp_path):
    out = tmp_path / "captions"
    with fake_cloud() as cloud:
        service, _ = make_service("gemini", cloud)
        results = service.analyze_directory(str(song.parent), output_dir=str(out))
    assert results[0]["caption"] == CAPTION
    assert (song.parent / "song.caption.txt").read_text(encoding="utf-8") == CAPTION + "\n"
    saved = json.loads((out / "song.json").read_text(encoding="utf-8"))
    assert (saved["caption"], saved["filename"], saved["path"]) == (CAPTION, "song.wav", str(song))


def test_a_wrong_key_ends_a_folder_immediately(song):
    (song.parent / "z.wav").write_bytes(song.read_bytes())
    with fake_cloud("401") as cloud:
        service, _ = make_service("whisper", cloud)
        with pytest.raises(ServiceRefused):
            service.transcribe_directory(song.parent)
        assert len(cloud.requests) == 1


@each
def test_a_missing_key_is_reported_with_its_environment_variable(name, monkeypatch):
    service = online_services()[name]
    with pytest.raises(ServiceRefused) as caught:
        SERVICES[name]()
    assert service.key_variables[0] in caught.value.hint
    assert not has_key(service)
    monkeypatch.setenv(service.key_variables[-1], " from-environment ")
    assert find_key(service) == "from-environment"
    remember_key(name, "typed")
    assert find_key(service) == "typed"
    assert find_key(service, "given") == "given"
    remember_key(name, "")
    assert find_key(service) == "from-environment"
    assert os.environ[service.key_variables[-1]] == " from-environment "


def test_a_custom_server_needs_no_key(song):
    with fake_cloud("401") as cloud:
        own = WhisperTranscriber(base_url=f"{cloud.url}/v1", retry_policy=RetryPolicy(retries=0))
        with pytest.raises(ServiceRefused, match="401"):
            own.transcribe(song)
        assert "authorization" not in cloud.requests[0].headers


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "ключ"])
def test_a_key_with_invalid_characters_is_rejected(key):
    with pytest.raises(ServiceRefused, match="characters"):
        WhisperTranscriber(api_key=key)


def test_a_missing_file_and_an_invalid_address_are_reported(song, tmp_path):
    with pytest.raises(AudioError, match="gone.mp3"):
        ElevenLabsTranscriber(api_key=KEY).transcribe(tmp_path / "gone.mp3")
    with pytest.raises(ConfigError, match="ftp://host"):
        ElevenLabsTranscriber(api_key=KEY, base_url="ftp://host").transcribe(song)


def test_cancelling_ends_the_wait_for_a_service(song):
    with fake_cloud("429:60") as cloud:
        retry_policy = RetryPolicy(stop=lambda: len(cloud.requests) > 0)
        service = ElevenLabsTranscriber(api_key=KEY, base_url=cloud.url, retry_policy=retry_policy)
        with pytest.raises(JobCancelled):
            service.transcribe(song)


def test_the_cost_is_estimated_from_the_duration():
    assert "about 0.72 USD" in cost_note(TRANSCRIBERS["whisper"], 7200)
    assert "less than 0.01" in cost_note(CAPTIONERS["gemini"], 10)


def test_the_price_and_its_date_are_shown_with_the_cost():
    service = replace(TRANSCRIBERS["whisper"], usd_per_minute=0.5, price_date="May 2031")
    note = cost_note(service, 600)
    assert "about 5.00 USD for 10 min of audio" in note
    assert "about 0.5 USD per minute (price of May 2031)" in note


def test_an_unknown_price_is_shown_as_unknown():
    assert "price unknown" in cost_note(replace(TRANSCRIBERS["whisper"], usd_per_minute=None), 600)
