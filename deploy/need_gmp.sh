#!/usr/bin/env bash
# libp2p needs fastecdsa, which is compiled at install: a C compiler and the GMP headers must be there.
set -eu
probe='#include <gmp.h>'
if command -v cc >/dev/null && printf '%s\n' "$probe" | cc -E -x c - >/dev/null 2>&1; then exit 0; fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends gcc libc6-dev libgmp-dev >/dev/null
    exit 0
fi
cat >&2 <<'MSG'
A C compiler and the GMP headers are missing (libp2p's fastecdsa is compiled at install). Install them, then run make again:
  Debian, Ubuntu:  sudo apt-get install gcc libc6-dev libgmp-dev python3-dev
  Fedora:          sudo dnf install gcc gmp-devel python3-devel
  macOS:           brew install gmp
MSG
exit 1
