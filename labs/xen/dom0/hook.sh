#!/bin/sh
# mmdebstrap's customize hook: lays aside dom0's kernel, which is not installed but taken apart, and what was installed.
set -eu
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
mkdir "$1/hvconform"
cd "$1/hvconform"
kernel=$(apt-cache depends linux-image-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p')
apt-get -q -o APT::Sandbox::User=root download "$kernel"
dpkg-query --admindir="$1/var/lib/dpkg" -W > packages
