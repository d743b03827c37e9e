"""Train adapters for the ACE-Step 1.5 music generation model on your own songs.

Layers, top to bottom. A module imports only from the lines below its own; packages on one line do not
import each other (``tests/test_layers.py`` reads these lines and checks it):

    ui, cli
    demo, benchmark
    handler
    captioning, preprocessing, training, exporting, system
    adapters, tensors
    dataset, models
    audio
    core

The entry points ``launch.py``, ``lora_training_ui.py`` and ``captioner_standalone.py`` are above all of them.
Importing ``core``, ``cli``, ``ui``, ``system`` or any ``configs`` does not import torch, so the window opens at once.
"""

__version__ = "0.1.0"
