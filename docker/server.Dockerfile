# The service. RUNTIME=cpu|rtx|tensorrt picks what runs frames; torch is in none of them.
#   docker build -f docker/server.Dockerfile -t sr-server .                        (CPU)
#   docker build -f docker/server.Dockerfile --build-arg RUNTIME=rtx -t sr-server .
# A model of your own: make deploy RUN=runs/mine, which fills build/deploy/ and sets MODEL.
ARG PYTHON=3.12
ARG RUNTIME=cpu

# --- PyCUDA, compiled where there is no GPU, no driver and no CUDA toolkit -----------------------
FROM python:${PYTHON}-bookworm AS cuda
ARG RUNTIME
WORKDIR /build
COPY docker/build-pycuda.sh ./
RUN --mount=type=cache,target=/root/.cache/pip \
    if [ "$RUNTIME" = cpu ]; then mkdir wheels; else \
      apt-get update && apt-get install -y --no-install-recommends g++ \
      && sh build-pycuda.sh /build/wheels && rm -rf /var/lib/apt/lists/*; fi

# --- everything that pip installs, in one virtual environment ------------------------------------
FROM python:${PYTHON}-slim-bookworm AS packages
ARG RUNTIME
RUN python -m venv /opt/sr
WORKDIR /source
COPY constraints.txt docker/requirements.txt ./
COPY --from=cuda /build/wheels /wheels
# Dependencies come before the source, so that a changed line of code does not fetch them again.
# --no-compile: the last stage compiles the modules that are used, and only those.
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/sr/bin/pip install --no-compile --no-deps --require-hashes --requirement requirements.txt \
    && case "$RUNTIME" in \
      cpu) ;; \
      rtx) set -- tensorrt-rtx-cu13 ;; \
      tensorrt) set -- tensorrt ;; \
      *) echo "RUNTIME is cpu, rtx or tensorrt, not $RUNTIME" >&2; exit 2 ;; \
    esac \
    && if [ $# -gt 0 ]; then \
      /opt/sr/bin/pip install --no-compile --constraint constraints.txt "$@" \
      && /opt/sr/bin/pip install --no-compile --no-index --find-links /wheels pycuda; fi
# For the C kernel of the winograd backend, which is compiled when the wheel is made.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
COPY pyproject.toml setup.py README.md LICENSE NOTICE ./
COPY engine engine
COPY server server
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/sr/bin/pip install --no-compile --no-deps . \
    # Training is another image. Nothing is installed at run time, and the tests, headers and
    # type stubs of libraries are dead weight here.
    && rm /opt/sr/bin/sr-train && /opt/sr/bin/pip uninstall -y pip \
    && find /opt/sr -type d \( -name tests -o -name test -o -name include \) \
      -prune -exec rm -r {} + \
    && find /opt/sr -name '*.pyi' -delete \
    # For programs in C; Python's module has all of it inside. 35 MB.
    && rm -f /opt/sr/lib/python3*/site-packages/onnxruntime/capi/libonnxruntime.so.*
# The weights of `make deploy`, if there are any. The digest is there for builders whose cache does not
# look into what is mounted: they would give every model the layer of the first one.
ARG CHAIN_SHA256=none
RUN --mount=type=bind,target=/context \
    echo "chain: $CHAIN_SHA256" && mkdir /models \
    && if [ -d /context/build/deploy ]; then cp /context/build/deploy/* /models/; fi

# --- what runs ------------------------------------------------------------------------------------
FROM python:${PYTHON}-slim-bookworm
RUN apt-get update && apt-get install -y --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* \
    && install -d -m 700 -o 10001 -g 10001 /cache /data
COPY --from=packages /opt/sr /opt/sr
ENV PATH=/opt/sr/bin:$PATH
# Compiles what the processes import, Python's own library too, which comes without: a decode child
# starts for every video, and the root file system may be read-only by then.
RUN python -c "import server.__main__, server.app, server.workers.__main__, \
server.media.decode_child, server.media.encode_child, server.picture_child"
# Last, so that another model is another layer of its own and nothing else.
COPY --from=packages /models /models
ARG MODEL=auto
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    SR_CACHE_DIR=/cache \
    SR_DATA_DIR=/data \
    SR_MODEL=${MODEL} \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility,video
USER 10001:10001
VOLUME ["/cache", "/data"]
EXPOSE 8000
# The first start on a GPU builds a plan; until then /readyz answers 503 with the progress.
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["tini", "--", "sr-server", "--host", "0.0.0.0", "--port", "8000"]
