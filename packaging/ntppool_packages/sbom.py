"""List what a package contains, in CycloneDX's JSON: every wheel with its version, hash and licence."""

import json
import uuid
from collections.abc import Iterable, Sequence
from email.parser import HeaderParser
from itertools import groupby
from typing import Any, Final

from ntppool_packages.source import Source
from ntppool_packages.wheels import Wheel

_NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_URL, "https://github.com/ntppool/ntppool-monitor")


def bill_of_materials(name: str, version: str, wheels: Sequence[Wheel], source: Source) -> str:
    """Return the document. It depends on its arguments only, so that two builds are alike."""
    root = f"pkg:generic/{name}@{version}"
    components = [
        _component(list(same))
        for _, same in groupby(sorted(wheels, key=lambda one: (_key(one), one.path.name)), key=_key)
    ]
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, f'{source.commit} {root}')}",
        "version": 1,
        "metadata": {
            "timestamp": f"{source.time:%Y-%m-%dT%H:%M:%SZ}",
            "component": {
                "type": "application",
                "bom-ref": root,
                "name": name,
                "version": version,
                "licenses": [{"license": {"id": "MIT"}}],
                "properties": [{"name": "commit", "value": source.commit}],
            },
        },
        "components": components,
        "dependencies": [{"ref": root, "dependsOn": [one["bom-ref"] for one in components]}],
    }
    return json.dumps(document, indent=2) + "\n"


def licence(wheel: Wheel) -> str:
    """Return the licence that the wheel declares: an SPDX expression, or its own words."""
    headers = HeaderParser().parsestr(wheel.metadata())
    declared = headers.get("License-Expression") or headers.get("License") or ""
    classified = [
        line.rpartition(" :: ")[2] for line in headers.get_all("Classifier") or () if line.startswith("License ::")
    ]
    if not declared or "\n" in declared.strip():
        return ", ".join(classified) or "not declared"
    return declared.strip()


def _key(wheel: Wheel) -> tuple[str, str]:
    return wheel.name, wheel.version


def _component(wheels: Sequence[Wheel]) -> dict[str, Any]:
    """Describe one project; of compiled ones there is a wheel for each version of Python."""
    first = wheels[0]
    purl = f"pkg:pypi/{first.name}@{first.version}"
    return {
        "type": "library",
        "bom-ref": purl,
        "name": first.name,
        "version": first.version,
        "purl": purl,
        "licenses": [{"license": {"name": licence(first)}}],
        **_hashes(wheels),
    }


def _hashes(wheels: Sequence[Wheel]) -> dict[str, Any]:
    if len(wheels) == 1:
        return {"hashes": [_hash(wheels[0])]}
    return {"components": [{"type": "file", "name": one.path.name, "hashes": [_hash(one)]} for one in wheels]}


def _hash(wheel: Wheel) -> dict[str, str]:
    return {"alg": "SHA-256", "content": wheel.digest}


def licences(wheels: Iterable[Wheel]) -> list[tuple[str, str, str]]:
    """Return name, version and licence of each project, sorted."""
    return sorted({(one.name, one.version, licence(one)) for one in wheels})
