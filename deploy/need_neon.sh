#!/usr/bin/env bash
# The NEON kernels are tried without an ARM machine: a cross compiler, its C library, and an emulator must be there.
set -eu
packages='gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user'
if command -v aarch64-linux-gnu-gcc >/dev/null && command -v qemu-aarch64 >/dev/null; then exit 0; fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    # shellcheck disable=SC2086
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >/dev/null
    exit 0
fi
cat >&2 <<MSG
The NEON kernels are tested under emulation, and its parts are missing. Install them, then run make again:
  Debian, Ubuntu:  sudo apt-get install $packages
MSG
exit 1
