"""A Google Cloud in memory, to run Ray's cluster launcher against.

Requests are made by Google's own client library, from the descriptions of its services that come
with it, and answered here, without a network. What is to be created must fit those descriptions: a
field that Google does not know is an error here as it would be there.
"""

from __future__ import annotations

import functools
import json
import re
import shlex
import threading
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httplib2
from googleapiclient.discovery import Resource, build_from_document
from googleapiclient.discovery_cache import get_static_doc

__all__ = ["GoogleCloud", "Shell", "description"]

SERVICES = {"cloudresourcemanager": "v1", "iam": "v1", "compute": "v1", "tpu": "v2alpha1"}
"""What the launcher uses, in its order, with the versions that the client library describes."""
_LABEL = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_LABEL_VALUE = re.compile(r"[a-z0-9_-]{0,63}")


@functools.cache
def description(service: str) -> dict[str, Any]:
    """Google's own description of a service."""
    document = get_static_doc(service, SERVICES[service])
    assert document is not None, f"the client library does not describe {service}"
    return json.loads(document)


class GoogleCloud:
    """Answers the launcher's requests, and keeps what it created.

    Args:
        hosts: Of a slice, for each accelerator type.
    """

    credentials = None

    def __init__(self, hosts: Mapping[str, int]) -> None:
        self.hosts = hosts
        self.machines: dict[str, dict[str, Any]] = {}
        self.slices: dict[str, dict[str, Any]] = {}
        self.deleted: list[str] = []
        self.roles: set[str] = set()
        self.refused: list[str] = []
        self._lock = threading.Lock()

    def clients(self, provider: Mapping[str, Any]) -> tuple[Resource | None, ...]:
        """Instead of ``construct_clients_from_provider_config``: the same, without credentials."""
        return tuple(
            build_from_document(description(service), http=self)
            if service != "tpu" or provider.get("_has_tpus")
            else None
            for service in SERVICES
        )

    def close(self) -> None:
        """As an ``httplib2.Http`` has it."""

    def request(
        self, uri: str, method: str = "GET", body: str | None = None, **_: object
    ) -> tuple[httplib2.Response, bytes]:
        """As an ``httplib2.Http`` has it."""
        url = urlsplit(uri)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        with self._lock:
            try:
                found = self._answer(method, url.path, query, json.loads(body) if body else {})
            except Exception as error:
                self.refused.append(repr(error))
                raise
        return httplib2.Response({"status": "200"}), json.dumps(found).encode()

    def _answer(self, method: str, path: str, query: dict[str, str], body: Any) -> Any:
        """What Google would say."""
        match method, path.strip("/").split("/"):
            case "GET", ["v1", "projects", project]:
                return {"projectId": project, "name": project, "lifecycleState": "ACTIVE"}
            case "POST", ["v1", "projects", action] if action.endswith(":getIamPolicy"):
                return {"bindings": []}
            case "POST", ["v1", "projects", action] if action.endswith(":setIamPolicy"):
                self.roles = {binding["role"] for binding in body["policy"]["bindings"]}
                return body["policy"]
            case "GET", ["v1", "projects", project, "serviceAccounts", email]:
                return {"email": email, "projectId": project}
            case "GET", ["compute", "v1", "projects", project]:
                return {"name": project, "commonInstanceMetadata": {"items": []}}
            case "POST", ["compute", "v1", "projects", _, "setCommonInstanceMetadata"]:
                return {"name": "operation"}
            case "GET", ["compute", "v1", "projects", _, "regions", region, "subnetworks"]:
                link = f"https://www.googleapis.com/compute/v1/regions/{region}/subnetworks/default"
                return {"items": [{"selfLink": link}]}
            case "GET", ["compute", "v1", "projects", _, *_, "operations", _]:
                return {"status": "DONE"}
            case _, ["compute", "v1", "projects", _, "zones", _, "instances", *name]:
                return self._machine(method, name, query, body)
            case "GET", ["v2alpha1", "projects", _, "locations", _, "operations", _]:
                return {"response": {}}
            case _, ["v2alpha1", "projects", project, "locations", zone, "nodes", *name]:
                parent = f"projects/{project}/locations/{zone}"
                return self._slice(method, parent, name, query, body)
        raise AssertionError(f"nothing is known of {method} {path}")

    def _machine(self, method: str, name: list[str], query: dict[str, str], body: Any) -> Any:
        """About machines of Compute Engine."""
        match method, name:
            case "POST", []:
                _check(body, "Instance", "compute")
                interfaces = [{"networkIP": "10.0.0.2", "accessConfigs": [{"natIP": "34.0.0.2"}]}]
                made = {
                    "status": "RUNNING",
                    "networkInterfaces": interfaces,
                    "labelFingerprint": "",
                }
                self.machines[body["name"]] = {**body, **made, "requested": body}
                return {"name": "operation"}
            case "GET", []:
                wanted = dict(re.findall(r"labels\.([\w-]+) = ([\w-]+)", query.get("filter", "")))
                return {
                    "items": [
                        machine
                        for machine in self.machines.values()
                        if wanted.items() <= machine["labels"].items()
                    ]
                }
            case "GET", [one]:
                return self.machines[one]
            case "POST", [one, "setLabels"]:
                self.machines[one]["labels"] = _labels(body["labels"])
                return {"name": "operation"}
        raise AssertionError(f"nothing is known of {method} of the machine {name}")

    def _slice(
        self, method: str, parent: str, name: list[str], query: dict[str, str], body: Any
    ) -> Any:
        """About TPU slices."""
        done = {"name": f"{parent}/operations/done"}
        full = "/".join([parent, "nodes", *name])
        match method, name:
            case "POST", []:
                _check(body, "Node", "tpu")
                hosts = self.hosts[body["acceleratorType"]]
                net = len(self.slices) + 1
                full = f"{parent}/nodes/{query['nodeId']}"
                endpoints = [{"ipAddress": f"10.{net}.0.{host + 1}"} for host in range(hosts)]
                made = {"name": full, "state": "READY", "networkEndpoints": endpoints}
                self.slices[full] = {**body, **made, "requested": body}
                return done
            case "GET", []:
                return {"nodes": list(self.slices.values())}
            case "GET", [_]:
                return self.slices[full]
            case "PATCH", [_]:
                self.slices[full]["labels"] = _labels(body["labels"])
                return done
            case "DELETE", [_]:
                del self.slices[full]
                self.deleted.append(full)
                return done
        raise AssertionError(f"nothing is known of {method} of the slice {name}")


def _labels(labels: dict[str, str]) -> dict[str, str]:
    """The labels, if Google takes them."""
    for key, value in labels.items():
        assert _LABEL.fullmatch(key), key
        assert _LABEL_VALUE.fullmatch(value), f"{key}={value}"
    return labels


def _check(value: Any, schema: str, service: str) -> None:
    """Refuse what a service's description does not have."""
    wrong = list(_unknown(value, {"$ref": schema}, description(service)["schemas"], schema))
    assert not wrong, f"Google would refuse {'; '.join(wrong)}"
    _labels(value["labels"])


def _unknown(value: Any, schema: Any, schemas: Any, where: str) -> Iterator[str]:
    """What does not fit, and where."""
    schema = schemas[schema["$ref"]] if "$ref" in schema else schema
    if not _is(value, schema):
        yield f"{where}: {value!r} is no {schema['type']}"
    elif schema["type"] == "array":
        for index, item in enumerate(value):
            yield from _unknown(item, schema["items"], schemas, f"{where}[{index}]")
    elif schema["type"] == "object":
        known = schema.get("properties", {})
        for key, item in value.items():
            inner = known.get(key, schema.get("additionalProperties"))
            if inner is None or inner.get("readOnly"):
                yield f"{where}.{key}, which is not to be given"
            else:
                yield from _unknown(item, inner, schemas, f"{where}.{key}")
    elif "enum" in schema and value not in schema["enum"]:
        yield f"{where}: {value!r} is none of {schema['enum']}"


def _is(value: Any, schema: Any) -> bool:
    """Whether a value is of the described type; numbers of 64 bits are described as strings."""
    kinds: Any = {"object": dict, "array": list, "boolean": bool, "string": str, "integer": int}
    long = schema.get("format", "").endswith("int64")
    return isinstance(value, (kinds[schema["type"]], int) if long else kinds[schema["type"]])


class Shell:
    """Instead of ``subprocess``: keeps what would be run on other machines."""

    DEVNULL = None

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._commands: list[list[str]] = []

    def check_call(self, command: list[str], **_: object) -> int:
        """As ``subprocess`` has it."""
        with self._lock:
            self._commands.append([str(word) for word in command])
        return 0

    def check_output(self, command: list[str], **_: object) -> bytes:
        """As ``subprocess`` has it."""
        self.check_call(command)
        return b""

    def scripts(self, address: str, having: str) -> list[str]:
        """What was to be run by a shell of the machine at this address, with these words in it."""
        to, shell = f"ubuntu@{address}", ["bash", "--login", "-c", "-i"]
        found = [
            shlex.split(command[-1])[0]
            for command in self._commands
            if command[-6:-1] == [to, *shell]
        ]
        return [script for script in found if having in script]

    def copied(self, address: str) -> list[str]:
        """Where files were to be copied to on the machine at this address."""
        copies = [command[-1] for command in self._commands if command[0] == "rsync"]
        return [to.partition(":")[2] for to in copies if f"@{address}:" in to]
