"""Writes the networks, with PyTorch's initial weights, and the batches of some works.

    python prepare.py WORKSPACE WORK ...
"""

import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "peer"))

import torch
from safetensors.torch import save_file

from works import BY_NAME, prepare

workspace, names = Path(sys.argv[1]), sys.argv[2:]
works = [BY_NAME[name] for name in names]
prepare(workspace, works)
for work in works:
    if work.kind == "sample":
        # Noise for PyTorch alone: where kiln takes part, its own replaces this.
        save_file({"noise": torch.randn(work.batch, *work.shape)}, workspace / work.inputs)
print(json.dumps({"prepared": names}))
