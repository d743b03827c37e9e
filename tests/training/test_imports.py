"""What the start of a training process loads."""

from __future__ import annotations

import subprocess
import sys


def test_training_loads_neither_bitsandbytes_nor_all_of_lightning_nor_lycoris():
    program = "import sys, acestep.training.trainer, acestep.adapters.lora; print(*sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", program], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    ).stdout.split()
    assert {"lightning_fabric", "peft"} <= set(loaded)
    assert not {"bitsandbytes", "lightning", "pytorch_lightning", "lycoris"} & set(loaded)


def test_bitsandbytes_can_be_imported_after_peft_and_lycoris():
    program = "import acestep.adapters.lokr, acestep.adapters.lora, bitsandbytes; print(bitsandbytes.__version__)"
    subprocess.run(
        [sys.executable, "-c", program], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    )
