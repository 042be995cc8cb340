#!/usr/bin/env bash
# kiln against PyTorch on an NVIDIA card: `bash benches/gpu/run.sh --help` says how.
set -euo pipefail
exec python3 "$(dirname "$(realpath "$0")")/run.py" "$@"
