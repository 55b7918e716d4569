"""Deploys both applications on the cluster at ADDRESS, behind PORT, until its input ends."""

from __future__ import annotations

import sys
from pathlib import Path

import ray
from ray import serve

from server.cluster.serving import FramesArguments, JobsArguments, frames, jobs


def main() -> None:
    address, port, data_dir = sys.argv[1:]
    ray.init(address=address, log_to_driver=False, logging_level="error")
    serve.start(http_options={"host": "127.0.0.1", "port": int(port)}, proxy_location="HeadOnly")
    few = FramesArguments(gpus=0, cpus=0.1, min_replicas=2, max_replicas=2)
    serve.run(frames(few), name="frames", route_prefix="/")
    one = JobsArguments(cpus=0.1, data_dir=Path(data_dir))
    serve.run(jobs(one), name="jobs", route_prefix="/jobs")
    print("deployed", flush=True)
    sys.stdin.read()
    serve.shutdown()


if __name__ == "__main__":
    main()
