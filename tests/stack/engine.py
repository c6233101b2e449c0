"""Debian's Docker engine, unpacked into a temporary folder and run in namespaces of its own: nothing is installed, nothing is left.

Responsible for having the packages, for the namespaces, for the way out of them, and for the daemon. Not for images or tests.

The network, the mounts and the processes of the engine are its own (unshare), so its bridges, firewall rules and mounts are seen by
nobody else, and go when its first process ends, however that ends. Out of that network leads slirp4netns, a network stack that is
a program: it opens connections as any program does. So the machine's own network is never touched.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from processor.testbed import child_process as process

# What is unpacked, with all that these need and the machine does not have. The last two are for the stand-ins.
PACKAGES = ("docker.io", "slirp4netns", "mmdebstrap", "prometheus", "busybox-static")
DEBIAN = "12"
DNS = "10.0.2.3"  # slirp4netns answers there
START_TIMEOUT_S = 60.0


class CannotRun(Exception):
    """Says what is missing for an engine on this machine, and what to do."""


def refuse_elsewhere() -> None:
    """Raises CannotRun where Debian's engine cannot be unpacked and run."""
    release = Path("/etc/os-release")
    lines = release.read_text(encoding="utf-8").replace('"', "").splitlines() if release.exists() else []
    if os.geteuid() != 0 or "ID=debian" not in lines or f"VERSION_ID={DEBIAN}" not in lines:
        raise CannotRun(f"no Docker daemon that can pull images, and not root on Debian {DEBIAN}")
    if not Path("/dev/net/tun").exists():
        raise CannotRun("no Docker daemon that can pull images, and no /dev/net/tun for the network of one")


def unpack(folder: Path, cache: Path) -> None:
    """The packages' files under `folder`. Downloads are kept in `cache`."""
    (cache / "partial").mkdir(parents=True, exist_ok=True)
    options = [
        "-q",
        "-y",
        "--download-only",
        "--no-install-recommends",
        "-o",
        "Debug::NoLocking=true",
        "-o",
        f"Dir::Cache::Archives={cache}",
    ]
    get = ["apt-get", "install", *options, *PACKAGES]
    if subprocess.run(get, capture_output=True, check=False).returncode != 0:  # the lists of a fresh machine are empty or old
        subprocess.run(["apt-get", "update", "-q"], capture_output=True, check=False)
        found = subprocess.run(get, capture_output=True, text=True, check=False)
        if found.returncode != 0:
            raise CannotRun(f"apt-get could not download {' '.join(PACKAGES)}:\n{found.stderr.strip()}")
    folder.mkdir()
    for package in sorted(cache.glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", package, folder], check=True)
    for name in ("iptables", "ip6tables"):  # what the package's install script would choose
        (folder / "usr/sbin" / name).symlink_to("xtables-nft-multi")


def environment(folder: Path) -> dict[str, str]:
    """In which the unpacked programs find each other and their libraries, before the machine's."""
    libraries = [f"{folder}{place}/{os.uname().machine}-linux-gnu" for place in ("/usr/lib", "/lib")]
    return {
        **os.environ,
        "PATH": f"{folder}/usr/sbin:{folder}/usr/bin:{folder}/bin:{os.environ.get('PATH', '')}:/usr/sbin:/sbin",
        "LD_LIBRARY_PATH": ":".join(libraries),
        "XTABLES_LIBDIR": f"{libraries[0]}/xtables",
    }


def in_namespaces(command: Sequence[str], folder: Path, log: Path) -> int:
    """Runs `command` as the first process of new namespaces, and gives its exit code. `folder` is the unpacked packages.

    What it started ends with it; and all of it ends with the calling process, even by kill -9.
    """
    apart = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", *command]
    first = subprocess.Popen(process.tied(apart))
    network = None
    try:
        _until(lambda: _network_of(first.pid) not in (None, _network_of(os.getpid())), "the new network", first)
        way_out = ["slirp4netns", "--configure", "--mtu=65520", str(first.pid), "tap0"]
        network = process.spawn(process.tied(way_out), log, env=environment(folder))
        return first.wait()
    finally:
        first.kill()
        first.wait()
        if network is not None:
            process.stop(network, 5.0)


@contextlib.contextmanager
def daemon(work: Path, folder: Path) -> Iterator[Mapping[str, str]]:
    """A daemon, inside the namespaces; gives the environment in which `docker` talks to it. Its data is under `work`."""
    _until(lambda: "tap0" in [name for _, name in socket.if_nameindex()] and _has_route(), "the network's tap0")
    resolver = work / "resolv.conf"
    resolver.write_text(f"nameserver {DNS}\n", encoding="utf-8")
    subprocess.run(["mount", "--bind", resolver, "/etc/resolv.conf"], check=True)
    address = f"unix://{work}/docker.sock"
    places = ["--data-root", f"{work}/data", "--exec-root", f"{work}/exec", "--pidfile", f"{work}/dockerd.pid"]
    command = ["dockerd", "--host", address, *places, "--cgroup-parent", f"/{cgroup(work)}"]
    log = work / "dockerd.log"
    # The modern firewall's tables first; an older kernel has only the other ones.
    for tables in ("xtables-nft-multi", "xtables-legacy-multi"):
        for name in ("iptables", "ip6tables"):
            (folder / "usr/sbin" / name).unlink(missing_ok=True)
            (folder / "usr/sbin" / name).symlink_to(tables)
        running = process.spawn(command, log, env=environment(folder))
        talk = {**environment(folder), "DOCKER_HOST": address, "DOCKER_BUILDKIT": "1"}
        if _answers(running, talk):
            break
    else:
        raise CannotRun(process.with_log("dockerd did not start", log))
    try:
        yield talk
    finally:
        process.stop(running, 60.0)


def cgroup(work: Path) -> str:
    """The control group that all containers are under."""
    return work.name


def remove_cgroups(work: Path) -> None:
    """The kernel keeps the empty groups of processes that are gone."""
    for top in [*Path("/sys/fs/cgroup").glob(cgroup(work)), *Path("/sys/fs/cgroup").glob(f"*/{cgroup(work)}")]:
        for inner in sorted((path for path in top.rglob("*") if path.is_dir()), reverse=True):
            inner.rmdir()
        top.rmdir()


def _answers(running: "subprocess.Popen[bytes]", talk: Mapping[str, str]) -> bool:
    deadline = time.monotonic() + START_TIMEOUT_S
    while running.poll() is None and time.monotonic() < deadline:
        if subprocess.run(["docker", "info"], env=talk, capture_output=True, check=False).returncode == 0:
            return True
        time.sleep(0.2)
    process.kill(running)
    return False


def _network_of(pid: int) -> str | None:
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{pid}/ns/net")
    return None


def _has_route() -> bool:
    """Whether there is a way out: a route to 0.0.0.0."""
    return any(line.split()[1] == "00000000" for line in Path("/proc/net/route").read_text(encoding="ascii").splitlines()[1:])


def _until(condition: Callable[[], bool], what: str, running: "subprocess.Popen[bytes] | None" = None) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline or (running is not None and running.poll() is not None):
            raise CannotRun(f"{what} did not come up: unshare, slirp4netns or /dev/net/tun does not work here")
        time.sleep(0.02)


def program(name: str, env: Mapping[str, str]) -> Path:
    """Where a program is: among the unpacked ones, or the machine's own if its package was there already."""
    found = shutil.which(name, path=env["PATH"])
    if found is None:
        raise CannotRun(f"{name} is not in any of the packages {' '.join(PACKAGES)}")
    return Path(found)
