#!/bin/sh
# What the tests of images need where the machine has no Docker engine, and no registry can be
# reached: Debian's packages, unpacked into a folder and installed nowhere.
#   engine.sh FOLDER      engine, builder and compose: FOLDER/root, once
#   engine.sh FOLDER base an image to build on as well, Debian 12 with its Python: FOLDER/base.tar
# shellcheck disable=SC2016
set -eu
mkdir -p "$1"
folder=$(cd "$1" && pwd)
keys=/usr/share/keyrings/debian-archive-keyring.gpg
# The mirror that this machine uses.
mirror=$(apt-get indextargets --format '$(CODENAME) $(REPO_URI)' 'Created-By: Packages' |
  awk '$1 == "bookworm" { print $2; exit }')
[ -n "$mirror" ] || { echo "only Debian 12 is known to have what this needs" >&2; exit 1; }

fetch() { # SUITE PACKAGE…: with lists and caches of its own, so that the system's stay as they are
  state=$folder/apt/$1
  mkdir -p "$state/lists/partial" "$state/cache/archives/partial"
  echo "deb [signed-by=$keys] $mirror $1 main" >"$state/sources.list"
  cat >"$state/apt.conf" <<CONFIGURATION
Dir::Etc::sourcelist "$state/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::State::lists "$state/lists";
Dir::Cache "$state/cache";
APT::Sandbox::User "root";
CONFIGURATION
  shift
  (
    export APT_CONFIG="$state/apt.conf"
    cd "$state" && apt-get -qq update && apt-get -qq download "$@"
  )
  for package in "$state"/*.deb; do dpkg -x "$package" "$folder/root"; done
}

if [ ! -e "$folder/complete" ]; then
  rm -rf "$folder/root" "$folder/apt"
  # Debian 12's own engine is too old to build images without times; these run there as well, all
  # but runc, which is Debian 12's.
  fetch trixie docker.io docker-cli docker-buildx docker-compose containerd
  fetch bookworm runc mmdebstrap
  rm -rf "$folder/apt"
  touch "$folder/complete"
fi

if [ "${2-}" = base ] && [ ! -e "$folder/base.tar" ]; then
  # What the tests use of the pinned image; and the authorities that this machine trusts.
  "$folder/root/usr/bin/mmdebstrap" --quiet --variant=minbase \
    --include=ca-certificates,python3,python3-pip,python3-venv \
    --customize-hook='cp /etc/ssl/certs/ca-certificates.crt "$1/etc/ssl/certs/"' \
    bookworm "$folder/new.tar" "deb [signed-by=$keys] $mirror bookworm main"
  mv "$folder/new.tar" "$folder/base.tar"
fi
