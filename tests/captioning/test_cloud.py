"""The three online services against a local server that speaks as they do."""

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
    """Records how long would have been waited."""

    def __call__(self, seconds):
        self.append(seconds)


def made(name, cloud, *, key=KEY, retries=2, timeout_s=20.0):
    waits = Waits()
    retry_policy = RetryPolicy(retries=retries, timeout_s=timeout_s, wait=waits)
    url = f"{cloud.url}/v1" if name == "whisper" else cloud.url
    return SERVICES[name](api_key=key, base_url=url, retry_policy=retry_policy), waits


def ask(service, path):
    """What a service says of a song, as (text, language)."""
    if isinstance(service, GeminiCaptioner):
        answer = service.analyze(path)
        return answer["lyrics"], answer["language"]
    return service.transcribe(path)


each = pytest.mark.parametrize("name", list(SERVICES))


@each
def test_a_song_is_transcribed(name, song):
    with fake_cloud() as cloud:
        service, waits = made(name, cloud)
        assert ask(service, str(song)) == ("[Verse]\nHold me now" if name == "gemini" else LYRICS, "en")
        assert waits == []


@each
def test_a_wrong_key_is_refused_at_once_and_not_repeated_in_the_message(name, song):
    with fake_cloud("401") as cloud:
        service, waits = made(name, cloud)
        with pytest.raises(ServiceRefused, match="401") as refusal:
            ask(service, song)
        assert (waits, len(cloud.requests)) == ([], 1)
        assert KEY not in str(refusal.value)
        assert "key" in refusal.value.hint


@each
def test_a_busy_service_is_asked_again_after_the_time_it_names(name, song):
    with fake_cloud("429:7") as cloud:
        service, waits = made(name, cloud)
        assert ask(service, song)[1] == "en"
        assert waits == [7.0]


@each
def test_used_up_credit_is_not_asked_for_again(name, song):
    with fake_cloud("quota") as cloud:
        service, waits = made(name, cloud)
        with pytest.raises(ServiceRefused) as refusal:
            ask(service, song)
        assert "credit" in refusal.value.hint
        assert waits == []


@each
def test_a_service_that_wants_to_be_left_alone_for_an_hour_is(name, song):
    with fake_cloud("429:3600") as cloud:
        service, waits = made(name, cloud)
        with pytest.raises(ServiceError, match="3600 s"):
            ask(service, song)
        assert waits == []


@each
def test_server_errors_are_retried_with_growing_pauses_and_then_told(name, song):
    with fake_cloud("500", "500", "500") as cloud:
        service, waits = made(name, cloud)
        with pytest.raises(ServiceError, match=r"500.*tried 3 times"):
            ask(service, song)
        assert len(waits) == 2
        assert waits[1] > waits[0] * 1.2


@each
def test_a_service_that_does_not_answer_in_time_is_asked_again(name, song):
    with fake_cloud("timeout") as cloud:
        service, waits = made(name, cloud, timeout_s=0.3)
        assert ask(service, song)[1] == "en"
        assert len(waits) == 1


@each
def test_a_cut_answer_is_asked_for_again_and_then_told(name, song):
    with fake_cloud("malformed", "malformed", "malformed") as cloud:
        service, _ = made(name, cloud)
        with pytest.raises(ServiceError, match="not JSON"):
            ask(service, song)
        assert ask(service, song)[1] == "en"


@each
def test_an_unreachable_service_is_told_by_name(name, song):
    with fake_cloud() as cloud:
        pass
    service, _ = made(name, cloud, retries=0)
    with pytest.raises(ServiceError, match="cannot be reached"):
        ask(service, song)


@each
def test_the_key_does_not_follow_a_redirect(name, song):
    with fake_cloud("redirect") as cloud:
        service, _ = made(name, cloud)
        with pytest.raises(ServiceError, match="302"):
            ask(service, song)


@pytest.mark.parametrize("name", ["whisper", "elevenlabs"])
def test_no_words_mean_an_instrumental_piece(name, song):
    with fake_cloud("empty") as cloud:
        service, _ = made(name, cloud)
        assert service.transcribe(song)[0] == "[Instrumental]"


def test_an_empty_answer_of_gemini_is_no_caption(song):
    with fake_cloud("empty", "empty", "empty") as cloud:
        service, _ = made("gemini", cloud)
        with pytest.raises(ServiceError, match="empty answer"):
            service.analyze(song)


@each
def test_a_file_of_more_than_25_megabytes_arrives(name, tmp_path):
    path = tmp_path / "long.wav"
    sound = np.random.default_rng(0).standard_normal((48_000 * 35, 2)) * 0.1
    soundfile.write(path, sound, 48_000, subtype="DOUBLE")
    assert path.stat().st_size > 25 * 2**20
    with fake_cloud() as cloud:
        service, _ = made(name, cloud)
        assert ask(service, path)[1] == "en"
        if name == "whisper":  # the service takes no more than 25 MB: an MP3 is sent
            assert 0 < len(cloud.requests[0].fields["file"]) < 2 * 2**20
        elif name == "elevenlabs":
            assert len(cloud.requests[0].fields["file"]) == path.stat().st_size
        else:
            assert cloud.deleted == ["abc"]
            assert cloud.files == {}


def test_an_uploaded_file_is_deleted_after_a_failure_too(tmp_path):
    path = tmp_path / "long.mp3"
    path.write_bytes(b"x" * (15 * 2**20))
    with fake_cloud("500", "500", "500") as cloud:
        service, _ = made("gemini", cloud)
        with pytest.raises(ServiceError):
            service.analyze(path)
        assert cloud.deleted == ["abc"]


def test_gemini_gives_every_value_checked(song):
    with fake_cloud() as cloud:
        service, _ = made("gemini", cloud)
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
        doubtful = service.analyze(song)
        assert (doubtful["bpm"], doubtful["keyscale"], doubtful["timesignature"]) == (None, "", "")
        assert doubtful["language"] == "unknown"


def test_gemini_is_asked_for_lyrics_only_when_they_are_wanted(song):
    with fake_cloud() as cloud:
        service, _ = made("gemini", cloud)
        assert service.analyze(song, include_lyrics=False)["lyrics"] == ""
        service.analyze(song)
        schemas = [request.json["generationConfig"]["responseSchema"]["required"] for request in cloud.requests]
        assert ["lyrics" in schema for schema in schemas] == [False, True]


def test_a_refused_song_is_told_with_the_reason(song):
    with fake_cloud({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}) as cloud:
        service, waits = made("gemini", cloud)
        with pytest.raises(ServiceError, match="PROHIBITED_CONTENT"):
            service.analyze(song)
        assert waits == []


@pytest.mark.parametrize("name", ["whisper", "elevenlabs"])
def test_a_known_language_is_sent_along(name, song):
    with fake_cloud() as cloud:
        service, _ = made(name, cloud)
        service.transcribe(song, language="de")
        fields = cloud.requests[0].fields
        assert b"de" in (fields.get("language"), fields.get("language_code"))


@pytest.mark.parametrize("name", ["whisper", "elevenlabs"])
def test_a_folder_gets_lyric_files_and_one_bad_song_does_not_end_it(name, song):
    (song.parent / "broken.mp3").write_bytes(b"")
    (song.parent / "z.wav").write_bytes(song.read_bytes())
    (song.parent / "notes.txt").write_text("not a song")
    with fake_cloud("ok", "empty") as cloud:
        service, _ = made(name, cloud)
        results = service.transcribe_directory(str(song.parent), language="en")
    assert [result["filename"] for result in results] == ["broken.mp3", "song.wav", "z.wav"]
    assert "is empty" in results[0]["error"]
    assert results[1]["lyrics"] == LYRICS
    assert (song.parent / "song.lyrics.txt").read_text(encoding="utf-8") == LYRICS + "\n"
    assert not (song.parent / "z.lyrics.txt").exists()
    assert not (song.parent / "broken.lyrics.txt").exists()


def test_gemini_fills_a_folder_with_captions_lyrics_and_json(song, tmp_path):
    out = tmp_path / "captions"
    with fake_cloud() as cloud:
        service, _ = made("gemini", cloud)
        results = service.analyze_directory(str(song.parent), output_dir=str(out))
    assert results[0]["caption"] == CAPTION
    assert (song.parent / "song.caption.txt").read_text(encoding="utf-8") == CAPTION + "\n"
    saved = json.loads((out / "song.json").read_text(encoding="utf-8"))
    assert (saved["caption"], saved["filename"], saved["path"]) == (CAPTION, "song.wav", str(song))


def test_a_folder_ends_at_once_when_the_key_is_refused(song):
    (song.parent / "z.wav").write_bytes(song.read_bytes())
    with fake_cloud("401") as cloud:
        service, _ = made("whisper", cloud)
        with pytest.raises(ServiceRefused):
            service.transcribe_directory(song.parent)
        assert len(cloud.requests) == 1


@each
def test_without_a_key_nothing_is_sent_and_the_variable_is_named(name, monkeypatch):
    service = online_services()[name]
    with pytest.raises(ServiceRefused) as refusal:
        SERVICES[name]()
    assert service.key_variables[0] in refusal.value.hint
    assert not has_key(service)
    monkeypatch.setenv(service.key_variables[-1], " from-environment ")
    assert find_key(service) == "from-environment"
    remember_key(name, "typed")
    assert find_key(service) == "typed"
    assert find_key(service, "given") == "given"
    remember_key(name, "")
    assert find_key(service) == "from-environment"
    assert os.environ[service.key_variables[-1]] == " from-environment "


def test_a_server_of_ones_own_needs_no_key(song):
    with fake_cloud("401") as cloud:
        own = WhisperTranscriber(base_url=f"{cloud.url}/v1", retry_policy=RetryPolicy(retries=0))
        with pytest.raises(ServiceRefused, match="401"):
            own.transcribe(song)
        assert "authorization" not in cloud.requests[0].headers


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "ключ"])
def test_a_key_that_cannot_be_one_is_refused(key):
    with pytest.raises(ServiceRefused, match="characters"):
        WhisperTranscriber(api_key=key)


def test_a_missing_file_and_a_strange_address_are_told(song, tmp_path):
    with pytest.raises(AudioError, match="gone.mp3"):
        ElevenLabsTranscriber(api_key=KEY).transcribe(tmp_path / "gone.mp3")
    with pytest.raises(ConfigError, match="ftp://host"):
        ElevenLabsTranscriber(api_key=KEY, base_url="ftp://host").transcribe(song)


def test_waiting_for_a_service_ends_when_the_user_stops(song):
    with fake_cloud("429:60") as cloud:
        retry_policy = RetryPolicy(stop=lambda: len(cloud.requests) > 0)
        service = ElevenLabsTranscriber(api_key=KEY, base_url=cloud.url, retry_policy=retry_policy)
        with pytest.raises(JobCancelled):
            service.transcribe(song)


def test_the_cost_is_told_before_anything_is_sent():
    assert "about 0.72 USD" in cost_note(TRANSCRIBERS["whisper"], 7200)
    assert "less than 0.01" in cost_note(CAPTIONERS["gemini"], 10)


def test_the_price_and_its_date_are_shown_with_the_cost():
    service = replace(TRANSCRIBERS["whisper"], usd_per_minute=0.5, price_date="May 2031")
    note = cost_note(service, 600)
    assert "about 5.00 USD for 10 min of audio" in note
    assert "about 0.5 USD per minute (price of May 2031)" in note


def test_an_unknown_price_is_shown_as_unknown():
    assert "price unknown" in cost_note(replace(TRANSCRIBERS["whisper"], usd_per_minute=None), 600)
