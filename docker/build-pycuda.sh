#!/bin/sh
# Builds PyCUDA's wheel into the folder $1 without a GPU, a driver or a CUDA toolkit.
#
# Headers come from NVIDIA's pip wheels. The driver library is stood in for by one that only has
# its name: the real one is on the machine that runs the image, never in the image.
set -eu
wheels=$1
work=$(mktemp -d)
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy setuptools wheel \
  nvidia-cuda-runtime nvidia-cuda-crt nvidia-cuda-profiler-api
cuda=$("$work/venv/bin/python" -c 'import glob, site
print(glob.glob(site.getsitepackages()[0] + "/nvidia/cu*/include")[0].rsplit("/", 1)[0])')
mkdir "$work/stub"
echo 'int cuInit(unsigned flags) { return 100; }' > "$work/stub/libcuda.c"
# --no-as-needed: the linker drops a library of which nothing is used, and with it the real one.
cc -shared -fPIC -Wl,-soname,libcuda.so.1 -o "$work/stub/libcuda.so" "$work/stub/libcuda.c"
cat > "$HOME/.aksetup-defaults.py" <<SETTINGS
CUDA_ROOT = "$cuda"
CUDA_ENABLE_CURAND = False
CUDADRV_LIB_DIR = ["$work/stub"]
CXXFLAGS = ["-w"]
LDFLAGS = ["-Wl,--no-as-needed"]
SETTINGS
"$work/venv/bin/pip" wheel --quiet --no-deps --no-build-isolation --wheel-dir "$wheels" pycuda
"$work/venv/bin/pip" wheel --quiet --wheel-dir "$wheels" pytools siphash24 mako platformdirs
rm -f "$HOME/.aksetup-defaults.py"
rm -rf "$work"
