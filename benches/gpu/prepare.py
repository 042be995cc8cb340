"""Writes the networks, with PyTorch's initial weights, and the batches of some works.

    python prepare.py WORKSPACE WORK ...
"""

import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "peer"))

from works import BY_NAME, prepare

workspace, names = Path(sys.argv[1]), sys.argv[2:]
prepare(workspace, [BY_NAME[name] for name in names])
print(json.dumps({"prepared": names}))
