"""What other programs and users rely on stays as it is: compares the program with ``tests/fixtures/surface.json``."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.surface import PAGES, SNAPSHOT, describe_surface, labels

UPDATE = "After a deliberate addition, run: env/bin/python -m tests.surface"

PROMISED_IMPORTS = {
    "acestep.handler": ["AceStepHandler"],
    "acestep.models": [
        "create_tiny_checkpoint",
        "load_audio_detokenizer",
        "load_audio_tokenizer",
        "load_condition_encoder",
        "load_dit",
        "load_null_condition",
        "load_silence_latent",
        "load_text_encoder",
        "load_vae",
    ],
    "acestep.preprocessing.builder": ["DatasetBuilder.preprocess_two_pass"],
    "acestep.training.configs": [
        "LoKRConfig",
        "LoRAConfig",
        "TrainingConfig",
        "apply_preset",
        "auto_select_preset",
        "list_presets",
        "load_preset",
    ],
    "acestep.training.gpu_monitor": ["GPUMonitor", "detect_gpu", "get_available_vram_mb"],
    "acestep.training.presets": ["list_presets", "load_preset"],
    "captioner_standalone": ["ElevenLabsTranscriber", "GeminiCaptioner", "WhisperTranscriber", "build_page"],
    "lora_training_ui": ["build_page"],
}
PROMISED_LABELS = {
    "trainer": """1. Service|2. Dataset|3. Preprocess|4. Train|5. Listen|6. Export & Merge|Runs|System|Profiles|
        Profile JSON|Load Profile|Save Profile|Side-Step Config (.json)|Import Side-Step|Export Side-Step|
        Checkpoints Folder (optional)|Model Checkpoint|
        Initialize Service|Unload|Audio Directory|Scan Audio Directory|Dataset Name|Activation Tag|
        Tag Position|Genre Ratio (%)|All Instrumental|Load Existing Dataset|Dataset JSON|Split Long Audio Files|
        Input Folder|Output Folder|Segment Duration (s)|Split Audio Files|Caption|Genre|BPM|Key|Time Signature|Lyrics|
        Language|Prompt Type|Instrumental|Save Path|Save Dataset|Output Directory|Two-Pass (Low VRAM)|
        Audio Normalization|Max Duration (s)|Preprocess Tensors|Stop Preprocessing|Tensors Directory|
        Auto-recommend epochs|Output Dir|GPU Preset|Adapter Type|Attention Target|Train MLP|Rank|Alpha|Dropout|
        Linear dim|Linear alpha|Factor|Decompose both|Use Tucker|Max Epochs|Save Every N Epochs|
        Auto-Save Best After (epochs)|Patience|Learning Rate|Optimizer|Scheduler|Batch Size|Gradient Accumulation|
        Max Crop Length (frames of 0.04 s)|Gradient Checkpointing|CFG Dropout|Loss Weighting|SNR Gamma|
        NaN Halt Threshold|Timestep mu|Timestep sigma|Sample Inference|Every N Epochs|Strengths|Inference steps|
        CFG scale|Shift|Seed|Resume from Checkpoint|Resume Training|Gradient Sensitivity|Run Estimation|
        Stop Estimation|Start Training|Stop Training|Export Path|Export|Merge""",
    "captioner": """1. Songs|2. Engine|3. Run|4. Review|System|Audio Folder|Scan|Config File|Save|Load|
        Split Long Audio Files|Captioner|Transcriber|Activation tag|CSV file|Captioner model|Transcriber model|
        Temperature|Top-p|Start Captioning|Transcribe Lyrics Only|Caption|BPM|Key|Time Signature|Genre|Language|
        Instrumental|Lyrics|[Verse]|[Chorus]|[Bridge]|[Instrumental]|Save Edit""",
}


@pytest.fixture(scope="module", autouse=True)
def own_workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACESTEP_WORKSPACE", str(tmp_path_factory.mktemp("workspace")))
        yield


@pytest.fixture(scope="module")
def now() -> dict[str, Any]:
    described: dict[str, Any] = json.loads(json.dumps(describe_surface()))
    return described


def differences(expected: Any, found: Any, path: str = "") -> list[str]:
    """One line for each leaf that differs."""
    if isinstance(expected, dict) and isinstance(found, dict):
        lines = [f"{path}/{key}: missing, was {expected[key]}" for key in expected if key not in found]
        lines += [f"{path}/{key}: new, is {found[key]}" for key in found if key not in expected]
        common = [key for key in expected if key in found]
        return lines + [line for key in common for line in differences(expected[key], found[key], f"{path}/{key}")]
    return [] if expected == found else [f"{path}: is {found!r}, was {expected!r}"]


@pytest.mark.parametrize(
    "part", ["endpoints", "health", "errors", "commands", "launcher", "jobs", "registries", "presets"]
)
def test_the_public_surface_matches_the_snapshot(part: str, now: dict[str, Any]) -> None:
    snapshot = json.loads(SNAPSHOT.read_text(encoding="utf-8"))
    found = differences(snapshot[part], now[part], part)
    assert not found, "\n".join([*found, UPDATE])


def test_the_snapshot_has_no_further_parts(now: dict[str, Any]) -> None:
    assert set(json.loads(SNAPSHOT.read_text(encoding="utf-8"))) == set(now)


@pytest.mark.parametrize("module", PROMISED_IMPORTS)
def test_promised_import_paths_work(module: str) -> None:
    for name in PROMISED_IMPORTS[module]:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        assert callable(found)


@pytest.mark.parametrize("page", PAGES)
def test_pages_show_the_labels_of_the_guide(page: str) -> None:
    promised = [label.strip() for label in PROMISED_LABELS[page].split("|")]
    shown = labels(importlib.import_module(PAGES[page]).build_page().blocks)
    assert [label for label in promised if label not in shown] == []


def test_a_difference_names_the_place_and_both_values() -> None:
    was, found = {"a": {"b": 1, "c": 2}}, {"a": {"b": 3, "d": 4}}
    assert differences(was, found) == ["/a/c: missing, was 2", "/a/d: new, is 4", "/a/b: is 3, was 1"]
