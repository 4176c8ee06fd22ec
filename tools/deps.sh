#!/bin/sh
# Installs what building and testing need on Debian 12. Does nothing where it is all there.
set -eu
need="clang llvm libbpf-dev libbpf1 bpftool make gcc python3-venv iproute2 ethtool nftables iperf3 iputils-ping groff-base libfuse3-3 zsh fish"
missing=""
for p in $need; do
    dpkg-query -W -f='${db:Status-Status}' "$p" 2>/dev/null | grep -q '^installed$' || missing="$missing $p"
done
[ -z "$missing" ] && exit 0
echo "installing:$missing"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086
apt-get install -y -qq --no-install-recommends $missing >/dev/null
