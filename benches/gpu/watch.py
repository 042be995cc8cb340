"""Runs one turn as a process, within a time limit, and watches the card meanwhile."""

import json
import os
import signal
import subprocess
import tempfile
import time

POLL_SECONDS = 0.05


class Card:
    """The card by NVML, if there is one."""

    def __init__(self):
        self.handle = None
        try:
            import pynvml

            pynvml.nvmlInit()
            chosen = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0]
            self.handle = pynvml.nvmlDeviceGetHandleByIndex(int(chosen) if chosen.isdigit() else 0)
            self.nvml = pynvml
        except Exception as error:  # no package, no driver or no card: all without measurements
            print(f"no NVML ({error}): memory and busy share are not measured", flush=True)

    def used(self):
        """Bytes, by all processes and the driver."""
        return self.nvml.nvmlDeviceGetMemoryInfo(self.handle).used if self.handle else None

    def busy(self):
        """In percent: NVML's share of its last sampling period (up to a second) in which any kernel ran.

        It does not say how much of the card the kernels used.
        """
        return self.nvml.nvmlDeviceGetUtilizationRates(self.handle).gpu if self.handle else None


def tail(text, lines=30):
    return "\n".join(text.splitlines()[-lines:])


def last_json(text):
    for line in reversed(text.splitlines()):
        if line.startswith("{"):
            return json.loads(line)
    raise ValueError("it printed no JSON")


def run(command, environment, folder, limit, card, log, prints_json=True):
    """What the process printed as JSON in its last line, and what was seen from outside; or an `error`.

    Of a process that prints no JSON, the end of its output. It is killed after `limit` seconds, with all its children.
    Its stderr is appended to `log`.
    """
    command = [str(part) for part in command]
    before = card.used()
    used, busy = [], []
    started = time.time()
    environment = os.environ | environment | {"KIT_STARTED": repr(started)}
    with tempfile.TemporaryFile("w+", errors="replace") as out, tempfile.TemporaryFile("w+", errors="replace") as err:
        try:
            process = subprocess.Popen(
                command, env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                start_new_session=True,
            )
        except OSError as error:
            return {"error": str(error)}
        try:
            while process.poll() is None and time.time() < started + limit:
                time.sleep(POLL_SECONDS)
                if card.handle:
                    used.append(card.used())
                    said = read(err)
                    if "TIMING" in said and "TIMED" not in said:
                        busy.append(card.busy())
            timed_out = process.poll() is None
        finally:
            # Also ends children that outlived their parent.
            kill_group(process.pid)
            process.wait()
        said, printed = read(err), read(out)
    log.write(f"\n$ {' '.join(command)}\n{said}")
    log.flush()
    outcome = {"seconds": round(time.time() - started, 2)}
    if timed_out:
        time.sleep(1)  # for the driver to free its memory
        outcome["error"] = f"timed out after {limit:.0f} s"
    elif process.returncode != 0:
        outcome["error"] = f"ended with {process.returncode}"
    if not prints_json:
        outcome["output"] = tail(printed, 200)
    elif "error" not in outcome:
        try:
            outcome |= last_json(printed)
        except ValueError as error:
            outcome["error"] = str(error)
    if "error" in outcome:
        outcome["stderr"] = tail(said)
    if used:
        outcome["card_memory"] = max(used) - before
    if busy:
        outcome["busy"] = sum(busy) / len(busy) / 100
    return outcome


def read(file):
    """All that a process has written so far. It shares the file's position, which must stay at the end."""
    descriptor = file.fileno()
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")


def kill_group(leader):
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        pass
