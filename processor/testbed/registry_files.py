"""What the embedded schema registry is made of: Apicurio Registry from Maven Central, fetched and unpacked once.

As kafka_jars for Kafka, in the same cache. Not responsible for starting it.
"""

import shutil
import tarfile
import time
from pathlib import Path

from rich.console import Console

from processor.errors import SlotstreamError
from processor.testbed.kafka_jars import cache, extra_missing, one_process
from processor.testbed.maven import getting

VERSION = "3.3.3"
PROGRAM = "quarkus-run.jar"


def registry_folder() -> Path:
    """The unpacked registry. Fetched over the network the first time. Raises SlotstreamError."""
    folder = cache() / f"apicurio-{VERSION}"
    with one_process(folder.parent):
        if not (folder / PROGRAM).exists():
            own = folder.with_suffix(".tmp")
            shutil.rmtree(own, ignore_errors=True)
            _unpack(_fetched(), own)
            own.rename(folder)
    return folder


def _fetched() -> Path:
    try:
        from jgo.maven import MavenContext
    except ImportError as error:
        raise extra_missing("jgo") from error
    console, began = Console(stderr=True), time.monotonic()
    console.print(f"getting Apicurio Registry {VERSION}, about 160 MB, once", highlight=False)
    with getting(f"Apicurio Registry {VERSION}"):
        project = MavenContext().project("io.apicurio", "apicurio-registry-app").at_version(VERSION)
        path = Path(project.artifact(classifier="all", packaging="tar.gz").resolve())
    console.print(f"Apicurio Registry {VERSION} is here, {time.monotonic() - began:.0f} s", highlight=False)
    return path


def _unpack(archive: Path, folder: Path) -> None:
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    except (tarfile.TarError, EOFError, OSError) as error:
        archive.unlink(missing_ok=True)  # cut short: the next start fetches it again
        raise SlotstreamError(
            f"{archive} cannot be unpacked: {error}", expected="a whole archive, and 170 MB of room", do="make room, and start again"
        ) from error
