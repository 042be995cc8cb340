#!/usr/bin/env bash
# Builds kiln for CUDA where LLVM cannot be downloaded from GitHub: Debian's LLVM 22 stands in for the LLVM 23 that the crate
# cubecl-llvm would fetch. Needs Debian's packages and crates.io, and installs nothing into the system. Root renews the lists of
# packages first; others need lists that are new enough.
#   bash benches/gpu/build.sh WORK_FOLDER [cargo's arguments]
# By default it builds the program of this comparison, for `run.sh --peer`, and the tests for `--gpu-test`. All programs are
# left in WORK_FOLDER/programs as well, stripped and packed by xz, to travel: the peer needs nothing else of the project
# but benches/ and configs/ (`xz -d peer.xz; chmod +x peer; bash benches/gpu/run.sh --peer ./peer`), `gpu` also
# pretrained/mnist-many-steps. With LLVM 22, float atomics are not native and PTX
# stops at 9.0, so timings may be below those of an official build: say so beside them.
set -euo pipefail
[[ ${1:-} != -* ]] || { sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p}' "$0"; exit 0; }
repository=$(realpath "$(dirname "$0")/../..")
[[ -n ${1:-} ]] || { echo "usage: bash benches/gpu/build.sh WORK_FOLDER [cargo arguments]; see --help" >&2; exit 2; }
mkdir -p "$1"; work=$(realpath "$1"); shift
(( $# )) || set -- --package kiln-cli --package kiln --features kiln-cli/cuda --example peer --test gpu --test gpu_operators
llvm=$work/llvm/usr/lib/llvm-22
# The folder that cubecl-llvm's build script downloads to. The version is that of tracel-llvm-bundler in Cargo.lock.
version=$(sed -n '/^name = "tracel-llvm-bundler"/{n;s/.*"\(.*\)"/\1/p}' "$repository/Cargo.lock")
place=$work/share/tracel/tracel-llvm-$version
if [[ ! -x $llvm/bin/llvm-config ]]; then
  mkdir -p "$work/debs"
  (( EUID )) || apt-get update
  (cd "$work/debs" && apt-get download llvm-22-dev llvm-22)
  for package in "$work"/debs/*.deb; do dpkg -x "$package" "$work/llvm"; done
fi
# Written once: a newer file would build Burn again.
if [[ ! -x $place/bin/llvm-config ]]; then
  mkdir -p "$place/bin"
  touch "$place/.tracel-llvm-installed"
  for library in zstd z; do
    ln -sfn "/usr/lib/x86_64-linux-gnu/lib$library.so.1" "$llvm/lib/lib$library.so"
  done
  cat >"$place/bin/llvm-config" <<END
#!/bin/sh
case "\$2" in
--libs) $llvm/bin/llvm-config --link-static --libs | sed 's/-lPollyISL//; s/-lPolly//' ;;
--system-libs) echo -lrt -ldl -lm -lz -lzstd ;;
*) exec $llvm/bin/llvm-config "\$@" ;;
esac
END
  chmod +x "$place/bin/llvm-config"
fi
# lld, which Rust's toolchain brings, is needed: GNU ld leaves symbols of LLVM's archives undefined.
cd "$repository"
export XDG_DATA_HOME=$work/share CUDARC_CUDA_VERSION=13000 CARGO_TARGET_DIR=$work/target
cargo build --release --locked --message-format=json-render-diagnostics "$@" >"$work/messages"
mkdir -p "$work/programs"
sed -n 's|.*"executable":"\([^"]*\)".*|\1|p' "$work/messages" | while read -r program; do
  # Without cargo's hash.
  name=$(basename "$program" | sed 's/-[0-9a-f]\{16\}$//')
  strip -o "$work/programs/$name" "$program"
  xz -T0 -kf "$work/programs/$name"
done
ls -l "$work/programs"
