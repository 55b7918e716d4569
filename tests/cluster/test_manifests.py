"""The Kubernetes files hold together: fields, names, volumes, and what they say to our own code."""

from __future__ import annotations

import importlib
import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from server.cluster.serving import FramesArguments, JobsArguments
from server.settings import Limits, Settings

ROOT = Path(__file__).parents[2]
FILES = ROOT / "deploy" / "kuberay"
SCHEMA = json.loads(Path(__file__).with_name("kuberay.schema.json").read_text())
KNOWN = {f"SR_{name.upper()}" for name in (*Settings.model_fields, *Limits.model_fields)}


def documents(name: str) -> dict[str, Any]:
    """Kind -> document of a file."""
    found = list(yaml.safe_load_all((FILES / name).read_text()))
    return {document["kind"]: document for document in found}


def pods() -> Iterator[dict[str, Any]]:
    cluster = documents("rayservice.yaml")["RayService"]["spec"]["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        yield group["template"]["spec"]
    yield documents("deployment.yaml")["StatefulSet"]["spec"]["template"]["spec"]


def test_the_rayservice_has_the_fields_that_it_may_have() -> None:
    jsonschema.validate(documents("rayservice.yaml")["RayService"], SCHEMA)


def test_the_check_is_strict() -> None:
    service = documents("rayservice.yaml")["RayService"]
    service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["minReplica"] = 1
    with pytest.raises(jsonschema.ValidationError, match="minReplica"):
        jsonschema.validate(service, SCHEMA)


@pytest.mark.parametrize("pod", list(pods()), ids=["head", "jobs", "gpu", "plain"])
def test_a_pod_mounts_what_it_has_and_sets_what_we_read(pod: dict[str, Any]) -> None:
    schema = {"$ref": "#/$defs/pod", "$defs": SCHEMA["$defs"]}
    jsonschema.validate(pod, schema)
    has = {volume["name"] for volume in pod.get("volumes", [])} | {"data", "cache"}
    for container in pod["containers"]:
        assert {mount["name"] for mount in container.get("volumeMounts", [])} <= has
        assert {each["name"] for each in container.get("env", [])} <= KNOWN
        assert container["resources"]["limits"] == container["resources"]["requests"]


def test_the_stateful_set_selects_its_own_pods_and_claims_what_they_mount() -> None:
    parts = documents("deployment.yaml")
    spec = parts["StatefulSet"]["spec"]
    labels = spec["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"] == labels == parts["Service"]["spec"]["selector"]
    assert spec["serviceName"] == parts["Service"]["metadata"]["name"]
    claims = {claim["metadata"]["name"] for claim in spec["volumeClaimTemplates"]}
    volumes = {volume["name"] for volume in spec["template"]["spec"]["volumes"]}
    mounts = spec["template"]["spec"]["containers"][0]["volumeMounts"]
    assert {mount["name"] for mount in mounts} == claims | volumes


def test_the_serve_configuration_names_our_builders_with_arguments_that_they_take() -> None:
    service = documents("rayservice.yaml")["RayService"]["spec"]
    config = yaml.safe_load(service["serveConfigV2"])
    models = {"frames": FramesArguments, "jobs": JobsArguments}
    for application in config["applications"]:
        module, _, name = application["import_path"].partition(":")
        assert callable(getattr(importlib.import_module(module), name))
        models[name](**application["args"])
    assert {each["name"]: each["route_prefix"] for each in config["applications"]} == {
        "frames": "/",
        "jobs": "/jobs",
    }
    resource = JobsArguments(**config["applications"][1]["args"]).resource
    groups = {
        group["groupName"]: group for group in service["rayClusterConfig"]["workerGroupSpecs"]
    }
    given = json.loads(json.loads(groups["jobs"]["rayStartParams"]["resources"].strip("'")))
    assert resource in given


@pytest.mark.cluster
def test_the_serve_configuration_is_what_ray_serve_reads() -> None:
    service = documents("rayservice.yaml")["RayService"]["spec"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Ray's modules do to Pydantic
        schema = importlib.import_module("ray.serve.schema")
    schema.ServeDeploySchema.model_validate(yaml.safe_load(service["serveConfigV2"]))


def test_every_file_names_one_version_of_ray() -> None:
    service = documents("rayservice.yaml")["RayService"]["spec"]
    version = service["rayClusterConfig"]["rayVersion"]
    pinned = re.search(r"^ray==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    assert pinned[1] == version
