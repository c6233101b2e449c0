"""Adds the base's Debian packages to a bill of materials (CycloneDX, JSON) of the Python packages.

    python sbom.py FROM.cdx.json TO.cdx.json

Run by deploy/Dockerfile inside the image that it tells of, beside `cyclonedx-py`. It reads what dpkg knows and changes nothing.
"""

import json
import subprocess
import sys
from pathlib import Path

from packageurl import PackageURL

FIELDS = "${Package}\t${Version}\t${Architecture}\t${db:Status-Status}\n"


def debian() -> list[dict[str, str]]:
    """One component a package that is installed."""
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text(encoding="utf-8").splitlines() if "=" in line)
    distro = f"debian-{release['VERSION_ID'].strip(chr(34))}"
    listed = subprocess.run(["/usr/bin/dpkg-query", "-W", "-f", FIELDS], check=True, capture_output=True, text=True).stdout
    components = []
    for name, version, architecture, status in (line.split("\t") for line in listed.splitlines()):
        if status == "installed":
            purl = str(PackageURL("deb", "debian", name, version, {"arch": architecture, "distro": distro}))
            components.append({"type": "library", "name": name, "version": version, "purl": purl, "bom-ref": purl})
    return components


def main(source: str, target: str) -> None:
    bill = json.loads(Path(source).read_text(encoding="utf-8"))
    bill["components"] = bill.get("components", []) + debian()
    Path(target).write_text(json.dumps(bill, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
