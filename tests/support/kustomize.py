"""What `kustomize build` makes of deploy/kubernetes, as far as that uses it: for machines without kubectl.

Whatever it does not know is an error, so that nothing is passed over in silence. Names of generated ConfigMaps bear no hash here.
"""

import copy
from pathlib import Path
from typing import Any

import yaml

KNOWN = {"apiVersion", "kind", "namespace", "labels", "resources", "components", "images", "configMapGenerator", "patches"}
CLUSTER_WIDE = {"Namespace"}


def build(folder: Path) -> list[dict[str, Any]]:
    """The objects of a kustomization, in the order in which it names them."""
    return _into(folder, [])


def kustomization(folder: Path) -> dict[str, Any]:
    content = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    if unknown := set(content) - KNOWN:
        raise ValueError(f"{folder}: {unknown} is not known here")
    return content


def files(folder: Path) -> set[str]:
    """Those that a kustomization names, but for other folders."""
    content = kustomization(folder)
    named = [*content.get("resources", ()), *(patch["path"] for patch in content.get("patches", ()) if "path" in patch)]
    named += [file for generator in content.get("configMapGenerator", ()) for file in generator["files"]]
    return {name for name in named if not (folder / name).is_dir()}


def _into(folder: Path, objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    content = kustomization(folder)
    for name in content.get("resources", ()):
        path = folder / name
        objects += build(path) if path.is_dir() else copy.deepcopy(list(yaml.safe_load_all(path.read_text(encoding="utf-8"))))
    for name in content.get("components", ()):
        objects = _into(folder / name, objects)
    for generator in content.get("configMapGenerator", ()):
        _generate(folder, generator, objects)
    for patch in content.get("patches", ()):
        operations = yaml.safe_load((folder / patch["path"]).read_text(encoding="utf-8") if "path" in patch else patch["patch"])
        for one in objects:
            if (one["kind"], one["metadata"]["name"]) == (patch["target"]["kind"], patch["target"]["name"]):
                for operation in operations:
                    _patch(one, operation)
    for one in objects:
        for labels in content.get("labels", ()):
            one["metadata"].setdefault("labels", {}).update(labels["pairs"])
        if "namespace" in content and one["kind"] not in CLUSTER_WIDE:
            one["metadata"]["namespace"] = content["namespace"]
        for container in one.get("spec", {}).get("template", {}).get("spec", {}).get("containers", ()):
            for image in content.get("images", ()):
                if container["image"] == image["name"]:
                    container["image"] = f"{image['newName']}:{image['newTag']}"
    return objects


def _generate(folder: Path, generator: dict[str, Any], objects: list[dict[str, Any]]) -> None:
    data = {Path(name).name: (folder / name).read_text(encoding="utf-8") for name in generator["files"]}
    made = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": generator["name"]}, "data": data}
    there = [one for one in objects if one["kind"] == "ConfigMap" and one["metadata"]["name"] == generator["name"]]
    if bool(there) != (generator.get("behavior") == "replace"):
        raise ValueError(f"{folder}: {generator['name']} is to be replaced and not there, or there already")
    if there:
        there[0]["data"] = data
    else:
        objects.append(made)


def _patch(one: Any, operation: dict[str, Any]) -> None:
    """RFC 6902: add, replace and remove."""
    *way, last = [step.replace("~1", "/").replace("~0", "~") for step in operation["path"].removeprefix("/").split("/")]
    for step in way:
        one = one[int(step)] if isinstance(one, list) else one[step]
    what, value = operation["op"], copy.deepcopy(operation.get("value"))
    if isinstance(one, list):
        if (what, last) != ("add", "-"):
            raise ValueError(f"{operation}: not known here")
        one.append(value)
    elif what == "add":
        one[last] = value
    elif last not in one:
        raise ValueError(f"{operation}: there is no {last}")
    elif what == "replace":
        one[last] = value
    elif what == "remove":
        del one[last]
    else:
        raise ValueError(f"{operation}: not known here")
