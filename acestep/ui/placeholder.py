"""The page of a mode whose forms are not built yet: what already works from the command line, ready to copy."""

from __future__ import annotations

import gradio as gr

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


def build_captioner() -> gr.Blocks:
    """The captioner's page."""
    page = gr.Blocks(title="ACE-Step captioner", analytics_enabled=False)
    with page:
        gr.Markdown(_CAPTIONER, elem_id="help")
    return page
