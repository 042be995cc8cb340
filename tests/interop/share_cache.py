"""Pulls a model with kiln and with Python's huggingface_hub from a real mirror server, out of one cache, both ways.

pip install olah==0.5.4 huggingface_hub==2.4.0
python share_cache.py KILN MODEL

KILN is the built program, MODEL a folder in the diffusers layout. The server is `olah`, which serves a local git
repository under the Hub's addresses, with the weights in Git LFS. Nothing is asked of the network beyond this machine.
"""

import argparse
import hashlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

REPOSITORY = "ada/digits"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def git(folder, *arguments):
    identity = ["-c", "user.name=Ada", "-c", "user.email=ada@localhost"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def make_repository(model, folder):
    """A git repository as a clone from the Hub would be: pointers in git, contents under .git/lfs/objects."""
    folder.mkdir(parents=True)
    git(folder, "init", "--quiet", "--initial-branch=main")
    for path in sorted(path for path in model.rglob("*") if path.is_file()):
        target = folder / path.relative_to(model)
        target.parent.mkdir(parents=True, exist_ok=True)
        content = path.read_bytes()
        if path.suffix == ".safetensors":
            oid = hashlib.sha256(content).hexdigest()
            kept = folder / ".git/lfs/objects" / oid[:2] / oid[2:4] / oid
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(content)
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(content)}\n"
            content = pointer.encode()
        target.write_bytes(content)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Digits\n")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "Digits")
    return git(folder, "rev-parse", "HEAD")


def start_server(work):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Whatever is not in the local repository would be asked of a Hub at port 1, where nobody listens.
    config = work / "olah.toml"
    config.write_text(
        f'[basic]\nhost = "127.0.0.1"\nport = {port}\nhf-scheme = "http"\nhf-netloc = "127.0.0.1:1"\n'
        f'hf-lfs-netloc = "127.0.0.1:1"\nmirror-netloc = "127.0.0.1:{port}"\nmirror-lfs-netloc = "127.0.0.1:{port}"\n'
        f'repos-path = "{work}/olah"\nmirrors-path = ["{work}/mirrors"]\n[accessibility]\noffline = true\n'
    )
    program = pathlib.Path(sys.executable).with_name("olah-cli")
    log = open(work / "olah.log", "w")
    server = subprocess.Popen([program, "--config", config, "--log-path", work / "logs"], stdout=log, stderr=log, cwd=work)
    for _ in range(300):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api/models/{REPOSITORY}/revision/main", timeout=5)
            return server, f"http://127.0.0.1:{port}"
        except OSError:
            assert server.poll() is None, (work / "olah.log").read_text()
            time.sleep(0.1)
    raise TimeoutError((work / "olah.log").read_text())


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def inodes(cache):
    """Which blobs there are, each with what the file system knows it by: a blob fetched again is another one."""
    blobs = cache.glob("models--*/blobs/*")
    return {blob.name: (blob.stat().st_ino, blob.stat().st_mtime_ns) for blob in blobs}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("kiln", type=pathlib.Path)
    parser.add_argument("model", type=pathlib.Path)
    arguments = parser.parse_args()
    kiln = arguments.kiln.resolve()
    work = pathlib.Path(tempfile.mkdtemp())
    commit = make_repository(arguments.model, work / "mirrors/models" / REPOSITORY)
    server, endpoint = start_server(work)

    def environment(cache):
        known = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        return known | {"HF_ENDPOINT": endpoint, "HF_HUB_CACHE": str(cache), "HF_HUB_DISABLE_XET": "1"}

    def pull(cache, *options, name=REPOSITORY):
        command = [kiln, "pull", name, "--json", *options]
        done = subprocess.run(command, env=environment(cache), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def python(cache, *options):
        # In a process of its own, since the variables are read when the module is.
        code = (
            "import sys; from huggingface_hub import snapshot_download;"
            "print(snapshot_download(sys.argv[1], ignore_patterns=['README.md'], local_files_only='offline' in sys.argv))"
        )
        command = [sys.executable, "-c", code, REPOSITORY, *options]
        done = subprocess.run(command, env=environment(cache), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return pathlib.Path(done.stdout.strip())

    try:
        expected = contents(arguments.model)
        size = sum(map(len, expected.values()))

        cache = work / "from-kiln"
        started = time.monotonic()
        pulled = pull(cache)
        seconds = time.monotonic() - started
        assert (pulled["commit"], contents(pathlib.Path(pulled["folder"]))) == (commit, expected)
        print(f"kiln pulled {len(pulled['files'])} files, {size} bytes in {seconds:.2f} s: as in the model")
        before = inodes(cache)
        assert python(cache, "offline") == pathlib.Path(pulled["folder"])
        assert python(cache) == pathlib.Path(pulled["folder"])
        assert inodes(cache) == before
        print("huggingface_hub finds them in the cache, offline and online, and fetches nothing again")

        cache = work / "from-python"
        folder = python(cache)
        before = inodes(cache)
        for options in ([], ["--offline"]):
            assert pathlib.Path(pull(cache, *options)["folder"]) == folder
        assert contents(folder) == expected
        assert inodes(cache) == before
        print("kiln finds what huggingface_hub fetched, online and offline, and fetches nothing again")
        assert pathlib.Path(pull(cache, name=f"{REPOSITORY}@{commit}")["folder"]) == folder
        print(f"pinned to {commit[:12]}: the same folder")

        cache = work / "sentences"
        for name in ["ada/nothing", f"{REPOSITORY}@v9"]:
            command = [kiln, "pull", name]
            done = subprocess.run(command, env=environment(cache), capture_output=True, text=True)
            assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
            print(f"kiln pull {name}\n  {done.stderr.strip()}")
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
