# The service. RUNTIME=cpu|rtx|tensorrt picks what runs frames; torch is in none of them.
#   docker build -f docker/server.Dockerfile -t sr-server .                        (CPU)
#   docker build -f docker/server.Dockerfile --build-arg RUNTIME=rtx -t sr-server .
ARG PYTHON=3.12
ARG RUNTIME=cpu

# --- headers and a stand-in for the driver library, to compile PyCUDA where there is no GPU ------
FROM python:${PYTHON}-bookworm AS cuda
ARG RUNTIME
WORKDIR /build
COPY docker/build-pycuda.sh ./
RUN --mount=type=cache,target=/root/.cache/pip \
    if [ "$RUNTIME" = cpu ]; then mkdir wheels; else \
      apt-get update && apt-get install -y --no-install-recommends g++ \
      && sh build-pycuda.sh /build/wheels; fi

# --- everything that pip installs, in one virtual environment ------------------------------------
FROM python:${PYTHON}-slim-bookworm AS packages
ARG RUNTIME
RUN python -m venv /opt/sr
WORKDIR /source
COPY constraints.txt pyproject.toml README.md LICENSE NOTICE ./
COPY engine engine
COPY server server
COPY trainer trainer
COPY --from=cuda /build/wheels /wheels
RUN --mount=type=cache,target=/root/.cache/pip \
    case "$RUNTIME" in \
      cpu) extra= ;; \
      rtx | tensorrt) extra="[$RUNTIME]"; /opt/sr/bin/pip install --no-deps /wheels/*.whl ;; \
      *) echo "RUNTIME is cpu, rtx or tensorrt, not $RUNTIME" >&2; exit 2 ;; \
    esac \
    && /opt/sr/bin/pip install --constraint constraints.txt ".$extra" \
    # Nothing is installed at run time, and tests of libraries are dead weight in an image.
    && /opt/sr/bin/pip uninstall -y pip \
    && find /opt/sr -type d \( -name tests -o -name test -o -name __pycache__ \) -prune -exec rm -r {} +

# --- what runs ------------------------------------------------------------------------------------
FROM python:${PYTHON}-slim-bookworm
RUN apt-get update && apt-get install -y --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* \
    && install -d -o 10001 -g 10001 /cache /data
COPY --from=packages /opt/sr /opt/sr
# PYTHONDONTWRITEBYTECODE: the root file system may be read-only.
ENV PATH=/opt/sr/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    SR_CACHE_DIR=/cache \
    SR_DATA_DIR=/data \
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
