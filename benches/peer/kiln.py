"""kiln's side: how `crates/kiln-cli/examples/peer.rs` is built and called. Needs no PyTorch."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from works import REPOSITORY


def build(features=()):
    """Builds kiln's side and returns its path. The whole workspace chooses features, so that Burn is built once."""
    command = ["cargo", "build", "--release", "--workspace", "--example", "peer"]
    if features:
        command += ["--features", ",".join(features)]
    done = subprocess.run(
        [*command, "--message-format", "json-render-diagnostics"], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    if done.returncode != 0:
        sys.exit("kiln's side could not be built: the compiler's message is above")
    for line in done.stdout.splitlines():
        message = json.loads(line) if line.startswith("{") else {}
        if message.get("target", {}).get("name") == "peer" and message.get("executable"):
            return Path(message["executable"])
    sys.exit("cargo did not say where it put the example `peer`")


def command(peer, work, workspace, options):
    """The command line of one turn; `options` are those that say how to compute and how often."""
    if work.kind == "sample":
        model = ["--model", workspace / work.model, "--steps", work.steps, "--count", work.batch]
        return [peer, "sample", *model, *options]
    inputs = ["--model", workspace / work.model, "--inputs", workspace / work.inputs]
    if work.kind == "forward":
        return [peer, "forward", *inputs, *options]
    return [peer, f"train-{work.kind}", "--config", REPOSITORY / work.config, *inputs, *options]


def list_of(possible):
    """For argparse: names separated by commas, each of them one of `possible`."""

    def parse(text):
        names = text.split(",")
        unknown = [name for name in names if name not in possible]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]} is none of {', '.join(possible)}")
        return names

    return parse
