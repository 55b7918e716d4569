#!/usr/bin/env bash
# Builds the images for real, without a Docker engine, and uses them as a person would.
#
#   docker/check.sh [cpu] [rtx]      both when none is named
#
# It needs root and the build script that DOCKER_BUILD_CHECK names (podman on base images that it
# makes locally); without that there is nothing to do here, and it says so and succeeds.
#   MODEL_FILE=weights.safetensors   serve these weights instead of those in the image
set -euo pipefail
cd "$(dirname "$0")/.."
export DOCKER_BUILD_CHECK_DIR=${DOCKER_BUILD_CHECK_DIR:-/var/cache/docker-build-check}
builder=${DOCKER_BUILD_CHECK:-../shared/docker-build-check}
say() { printf 'docker-check: [%4ds] %s\n' "$SECONDS" "$*"; }

if [[ ! -x $builder ]]; then
  say "skipped: $builder is not here; DOCKER_BUILD_CHECK can name another place"
  exit 0
fi
if [[ $(id -u) != 0 ]]; then
  say "needs root, as $builder does" >&2
  exit 1
fi
variants=("$@")
(($#)) || variants=(cpu rtx)
for variant in "${variants[@]}"; do
  case $variant in
    cpu) most_mb=450 ;;
    rtx) most_mb=900 ;;
    *) say "no such variant: $variant (cpu, rtx)" >&2; exit 2 ;;
  esac
  began=$SECONDS
  "$builder" docker/server.Dockerfile . "sr-server:$variant" --build-arg "RUNTIME=$variant"
  say "sr-server:$variant built in $((SECONDS - began)) s"
  # The build script removes containers that it finds: it must not start while ours run.
  flock "$DOCKER_BUILD_CHECK_DIR/lock" \
    python3 docker/check_image.py "sr-server:$variant" "$most_mb" ${MODEL_FILE:+"$MODEL_FILE"}
done
say "all passed"
