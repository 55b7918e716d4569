#!/usr/bin/env bash
# Everything that needs a GPU, as one command; JSON and logs land in one folder, and the same once
# more in FOLDER.tgz beside it: a borrowed machine often gives back only a few small files.
#
#   bench/gpu_session.sh [FOLDER]            (default: $OUT/gpu, else bench/results/gpu)
#
# PYTHON   interpreter that has PyTorch with CUDA (default python3)
# WHEELS   folder of wheels for a machine without a network (then nothing is downloaded)
# FRAMES   timed frames of each run (default 600); SIZE side of the frames (default 1024)
# ITERATIONS  steps of each width in the short training (default 1000)
#
# Steps, each logged, none stopping the next: (a) PyCUDA builds and our lanes run around PyTorch,
# (b) which TensorRT for RTX plans run on this card, (c) the yardstick, (d) the tests marked gpu and
# trt_gpu, video in device memory among them, (e) the proof with every TensorRT that is installed and
# what --model auto makes of it, (f) file to file, through the host and through device memory, (g) a
# short training of all widths. The exit code is that of (d).
set -u -o pipefail
cd "$(dirname "$0")/.."
out=${1:-${OUT:-bench/results}/gpu}
python=${PYTHON:-python3}
frames=${FRAMES:-600}
size=${SIZE:-1024}
mkdir -p "$out"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
export SR_CACHE_DIR="${SR_CACHE_DIR:-$(mktemp -d)}"

step() {  # step NAME COMMAND...: logs it and says how it ended
    local name=$1 begun=$SECONDS status=0
    shift
    "$@" >"$out/$name.log" 2>&1 || status=$?
    echo "$name: exit $status, $((SECONDS - begun)) s" | tee -a "$out/summary.txt"
    return $status
}

install() {
    # A machine that was made ready stays as it is: compiling PyCUDA takes minutes.
    if "$python" -c 'import av, pycuda.driver, pytest, tyro'; then
        echo "nothing to install: av, pycuda, pytest and tyro are there"
    elif [ -n "${WHEELS:-}" ]; then
        shopt -s nullglob
        local found=("$WHEELS"/*.whl "$WHEELS"/*.tar.gz)
        # PyCUDA comes as source and is compiled against this machine's toolkit.
        "$python" -m pip install --quiet --no-index --no-deps --no-build-isolation "${found[@]}"
    else
        "$python" -m pip install --quiet '.[cuda,rtx]' pytest pytest-timeout hypothesis jsonschema
    fi
}

: >"$out/summary.txt"
step machine sh -c 'nvidia-smi; nvcc --version; uname -a; lscpu | head -20'
step install install
step versions "$python" -m pip list
# (a) and (c): the network alone and our lanes around it, for every width and both formats.
step yardstick "$python" bench/gpu_yardstick.py --size "$size" --frames "$frames"
grep '^{' "$out/yardstick.log" >"$out/yardstick.jsonl"
# (b)
step rtx "$python" bench/rtx_on_this_card.py
grep '^{' "$out/rtx.log" >"$out/rtx.jsonl"
# (d): a skipped gpu test fails, a skipped trt_gpu test is listed with its reason.
tests=0
# One process per file, because a CUDA error outlives its cause.
for file in tests/gpu/test_*.py; do
    SR_TEST_GPU=1 step "$(basename "$file" .py)" "$python" -m pytest -ra -s -W default \
        -m "gpu or trt_gpu" "$file" || tests=$?
done
# (e): never falls back, so it ends with the reason where a runtime does not run here.
for backend in tensorrt tensorrt_rtx; do
    for model in fast balanced quality; do
        for format in rgb24 nv12; do
            step "proof-$backend-$model-$format" "$python" bench/fps.py --backend "$backend" \
                --model "$model" --format "$format" --size "$size" --frames "$frames" \
                --require 60 --save "$out/proof-$backend-$model-$format.json" || [ $? -ne 2 ] || break 2
        done
    done
done
# (f): the details of each JSON say where the frames were (frame_memory) and why.
for backend in tensorrt tensorrt_rtx; do
    step "auto-$backend" "$python" bench/fps.py --backend "$backend" --mode engine --frames 60 \
        --size "$size" --save "$out/auto-$backend.json" || continue
    for codec in libx264 h264_nvenc hevc_nvenc; do
        step "file-$backend-$codec" "$python" bench/fps.py --backend "$backend" --mode file \
            --size "$size" --format nv12 --codec "$codec" --save "$out/file-$backend-$codec.json"
    done
done
# What the media library says about this machine's codecs, with and without device memory.
step codecs "$python" -c 'import json; from server.media.encode import usable_codecs
print(json.dumps(usable_codecs(), indent=1))'
# (g): each captured as one CUDA graph; tests/gpu/test_training.py of (d) says that it is right.
for together in no-together together; do
    step "train-$together" "$python" -m trainer release --data tests/data/train_small --fresh \
        "--$together" --iterations "${ITERATIONS:-1000}" --device cuda --out "$(mktemp -d)"
done
cat "$out/summary.txt"
tar -czf "$out.tgz" -C "$(dirname "$out")" "$(basename "$out")" &&
    echo "all of $out is in $out.tgz too ($(wc -c <"$out.tgz") bytes): one small file to take along"
exit "$tests"
