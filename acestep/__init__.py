"""Teach the ACE-Step 1.5 music model a new style on one's own machine.

Layers, top to bottom. A module imports only from lines below its own; folders of one line do not
import each other (``tests/test_layers.py`` reads these lines and checks it):

    ui, cli
    handler
    captioning, labeling, preprocessing, training, exporting, mlx
    adapters, tensors
    dataset, models
    audio
    core

The faces ``launch.py``, ``lora_training_ui.py`` and ``captioner_standalone.py`` stand above them all.
Importing ``core``, ``cli``, ``ui`` or any ``configs`` does not import torch: the window opens first.
"""

__version__ = "0.1.0"
