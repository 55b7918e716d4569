# Training. With an NVIDIA GPU:
#   docker build -f docker/trainer.Dockerfile -t sr-trainer .
#   docker run --rm --gpus all --ipc host -v "$PWD/pictures:/pictures:ro" -v "$PWD/runs:/runs" \
#     --user "$(id -u):$(id -g)" sr-trainer fit --data /pictures --out /runs/mine
# On a CPU: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu, and no --gpus.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim-bookworm AS packages
# PyPI's torch brings CUDA with it; the CPU index has one that does not.
ARG TORCH_INDEX=https://pypi.org/simple
ARG TORCH=2.13.0
RUN python -m venv /opt/sr
WORKDIR /source
# torch comes first and alone: its exact version must be settled before anything asks for a range.
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/sr/bin/pip install --index-url "$TORCH_INDEX" --extra-index-url https://pypi.org/simple \
      "torch==$TORCH"
COPY constraints.txt pyproject.toml setup.py README.md LICENSE NOTICE ./
COPY engine engine
COPY server server
COPY trainer trainer
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/sr/bin/pip install --constraint constraints.txt '.[train]' \
    && /opt/sr/bin/pip uninstall -y pip

FROM python:${PYTHON}-slim-bookworm
COPY --from=packages /opt/sr /opt/sr
RUN install -d -o 10001 -g 10001 /runs
ENV PATH=/opt/sr/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    MPLCONFIGDIR=/tmp/matplotlib \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
WORKDIR /runs
VOLUME ["/runs"]
ENTRYPOINT ["sr-train"]
CMD ["--help"]
