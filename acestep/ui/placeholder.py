"""The page of a mode whose forms are not built yet: what already works from the command line, ready to copy."""

from __future__ import annotations

import gradio as gr

_TRAINER = """
# ACE-Step trainer

The forms of this page are still to come. Everything below works today from a terminal in the program's folder.
On Windows write `env\\Scripts\\python` for `env/bin/python`.

**See it work** on a tiny model, with songs it makes itself; needs no download:
```bash
env/bin/python -m acestep demo
```
**Get the model** (about 6.4 GB), then check this computer:
```bash
env/bin/python -m acestep download main
env/bin/python -m acestep doctor
```
**1. List your songs** and their labels:
```bash
env/bin/python -m acestep scan MUSIC_FOLDER --tag my_style --out dataset.json
```
**2. Turn them into tensors:**
```bash
env/bin/python -m acestep preprocess dataset.json --checkpoint acestep-v15-turbo --out tensors
```
**3. Train an adapter.** Ctrl-C stops and saves; with `--resume auto` added the command goes on from there:
```bash
env/bin/python -m acestep train tensors --checkpoint acestep-v15-turbo --out lora_output/my_style
```
**4. Listen:**
```bash
env/bin/python -m acestep generate --checkpoint acestep-v15-turbo --adapter lora_output/my_style/best/adapter \\
  --prompt "my_style, slow piano" --out song.wav
```
**5. Take it along** into the ACE-Step app:
```bash
env/bin/python -m acestep export lora_output/my_style/best/adapter --to acestep --out my_style
```
**What was run so far:**
```bash
env/bin/python -m acestep runs
```
"""

_CAPTIONER = """
# ACE-Step captioner

The captioner is still to come. Labels that you write yourself are read by `scan` today. For a song `track.mp3` put
any of these beside it:

| file | holds |
|---|---|
| `track.caption.txt` | a description of the music |
| `track.lyrics.txt`, or `track.txt` | the lyrics, with marks such as `[Verse]` and `[Chorus]` |
| `track.json` | `caption`, `genre`, `bpm`, `keyscale`, `timesignature`, `language`, `lyrics`, `is_instrumental` |
| any `.csv` in the folder | a line a song: `file`, `caption`, `genre`, `bpm`, `keyscale`, `lyrics`, `language` |

```json
{"caption": "slow piano ballad with strings", "bpm": 72, "keyscale": "C minor", "timesignature": "4"}
```
Then list what was found:
```bash
env/bin/python -m acestep scan MUSIC_FOLDER --tag my_style --out dataset.json
```
"""


def build_trainer() -> gr.Blocks:
    """The trainer's page."""
    return _page("ACE-Step trainer", _TRAINER)


def build_captioner() -> gr.Blocks:
    """The captioner's page."""
    return _page("ACE-Step captioner", _CAPTIONER)


def _page(title: str, text: str) -> gr.Blocks:
    page = gr.Blocks(title=title, analytics_enabled=False)
    with page:
        gr.Markdown(text, elem_id="help")
    return page
