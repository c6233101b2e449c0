"""What is broken: each fault does its harm, mends it, and leaves a group that is whole again; the waiting for that is its caller's.

A fault returns when its harm is over. It fails where something ended otherwise than it must: with another exit code, or not at all.
It proves its harm and counts it on the site, so that a fault that did nothing is not called survived.
"""

import errno
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from processor.verify.cluster_faults import CLUSTER_FAULTS
from processor.verify.fault import BOOST, OUTAGE_S, Fault, end_brokers, of
from processor.verify.instances import Running, leaving
from processor.verify.site import Site

SESSION_S = 6.0
END_S = 150.0  # to start with TensorFlow and be refused, or to stop with a drain and a last checkpoint; scaled by the load
COULD_NOT_WRITE = "could not write a checkpoint"
NAME_TAKEN = "the-name-already-runs-on-this-host"  # the section of the manual that the message names


# Processes.


def _kill(site: Site) -> None:
    site.start(site.kill(site.any_owner()).name)


def _kill_two(site: Site) -> None:
    """The second one while the first one is on its way back."""
    first = site.kill(site.any_owner()).name
    site.start(first)
    second = site.any_of([name for name in site.instances.names if name != first])
    site.pause(float(site.rng.uniform(0, 3)), f"{first} to begin its way back")
    site.kill(second)
    site.start(second)


def _sleep(site: Site) -> None:
    """Longer than the session: others take its partitions, whatever it had open is aborted, and it finds that out when it wakes."""
    sleeper = site.instances[site.any_owner()]
    had = sleeper.owned
    sleeper.sleep()
    site.pause(SESSION_S + 2, f"the session of {sleeper.name}, which sleeps, to be over")
    site.settle(ready=False)
    _taken_over(site, had, sleeper)
    sleeper.wake()


def _zombie(site: Site) -> None:
    """While it sleeps, a process elsewhere takes its name: when it wakes it must end, and not fence its successor."""
    name = site.any_owner()
    site.instances[name].sleep()
    successor = site.instances.start_beside(name, elsewhere=True)
    zombie = site.instances.replace(name, successor)
    site.wait(lambda: successor.ready, f"{name}'s successor to be ready")
    site.settle()
    zombie.wake()
    _must_end(site, zombie, 3)
    site.harm.done("successors")


def _twice(site: Site) -> None:
    """On the same host, wherever the first one runs since a zombie's successor came from elsewhere."""
    name = site.any_of(site.instances.names)
    second = site.instances.start_beside(name, elsewhere=False)
    _must_end(site, second, 2)
    if NAME_TAKEN not in second.log.read_text(errors="replace"):
        raise second.failed(f"the second process of {name} ended with 2 for another reason than its name", f"a message with {NAME_TAKEN}")
    site.harm.done("refused")


def _leave(site: Site) -> None:
    """Partitions move away and back while the loops have their hands full."""
    site.feeder.boost = BOOST
    try:
        _stop(site, leave=True)
        site.wait(lambda: all(one.ready for one in site.instances), "the instance that left to be back")
    finally:
        site.feeder.boost = 1.0


def _stop(site: Site, *, leave: bool) -> None:
    stopping = site.instances[site.any_owner(leaving(site.instances.options, leave=leave))]
    had = stopping.owned
    stopping.terminate()
    site.instances.forget(stopping.name)
    _must_end(site, stopping, 0)
    if leave:
        _taken_over(site, had, stopping)
    else:
        site.harm.done("stopped")
    site.start(stopping.name)


def _taken_over(site: Site, partitions: set[int], before: Running) -> None:
    def owned() -> set[int]:
        return {p for one in site.instances if one is not before for p in one.owned}

    site.proof(lambda: partitions <= owned(), f"others to have taken the partitions of {before.name}")
    site.harm.done("partitions moved", len(partitions))


def _join(site: Site) -> None:
    """One more comes, works for a while, and goes."""
    name = next(name for name in sorted(site.instances.options) if name not in site.instances.names)
    more = site.start(name)
    site.wait(lambda: more.ready and more.owned, f"{name} to have partitions")
    site.harm.done("partitions moved", len(more.owned))
    site.settle(ready=False)
    more.terminate()
    site.instances.forget(name)
    _must_end(site, more, 0)


def _must_end(site: Site, one: Running, code: int) -> None:
    site.wait(lambda: one.exit_code is not None, f"{one.name} to end with exit code {code}", END_S)
    if one.exit_code != code:
        raise one.failed(f"{one.name} ended with exit code {one.exit_code}", f"exit code {code}")


# The broker, and the way to it.


def _broker_kill(site: Site) -> None:
    _without_broker(site, lambda: of(site.broker).kill(), 0.0)


def _broker_away(site: Site) -> None:
    _without_broker(site, lambda: of(site.broker).stop(), OUTAGE_S)


def _without_broker(site: Site, end: Callable[[], None], seconds: float) -> None:
    end_brokers(site, end)
    if seconds:
        site.pause(seconds, "the broker, which is away")
    of(site.broker).start()


def _cut(site: Site) -> None:
    """The connections of one instance end again and again, then nothing is let in for a while."""
    proxy = of(site.proxy)
    before = Counter(proxy.harm)
    site.proof(lambda: proxy.connections, "a connection to be there, to be cut")
    for _ in range(int(site.rng.integers(2, 6))):
        proxy.cut()
        site.pause(float(site.rng.uniform(0.1, 1.0)), "new connections, to be cut too")
    proxy.refuse()
    site.pause(float(site.rng.uniform(0.5, 4.0)), "the way to the broker, which is shut")
    proxy.mend()
    _count_since(site, before)


def _slow(site: Site) -> None:
    """Everything takes long, then nothing comes through at all, for less or for more than the session."""
    proxy = of(site.proxy)
    before = Counter(proxy.harm)
    proxy.slow(float(site.rng.uniform(0.05, 0.5)))
    site.pause(float(site.rng.uniform(2, 5)), "the way to the broker, which is slow")
    site.proof(lambda: proxy.harm["pieces slowed"] > before["pieces slowed"], "the proxy to slow something")
    proxy.hang()
    site.pause(float(site.rng.choice((2.0, SESSION_S + 2))), "the way to the broker, where nothing comes through")
    site.proof(lambda: proxy.harm["pieces held"] > before["pieces held"], "the proxy to hold something")
    proxy.mend()
    site.pause(float(site.rng.uniform(0, 3)), "the instance to hear what it has missed")
    _count_since(site, before)


def _count_since(site: Site, before: Counter[str]) -> None:
    for what, count in (of(site.proxy).harm - before).items():
        site.harm.done(what, count)


# The disk.


def _disk_full(site: Site) -> None:
    disk = of(site.disk)
    told = _complaints(site, errno.ENOSPC)
    try:
        site.harm.done("bytes filled", disk.fill())
        _wait_for_complaint(site, errno.ENOSPC, told)
    finally:
        disk.free()
    _kill(site)  # what could not be written must not be missed


def _disk_read_only(site: Site) -> None:
    disk = of(site.disk)
    told = _complaints(site, errno.EROFS)
    try:
        disk.read_only()
        _wait_for_complaint(site, errno.EROFS, told)
    finally:
        disk.writable()


def _wait_for_complaint(site: Site, reason: int, told: int) -> None:
    site.proof(lambda: _complaints(site, reason) > told, f"an instance to say that it cannot write ({os.strerror(reason)})")
    site.harm.done("checkpoints not written", _complaints(site, reason) - told)


def _complaints(site: Site, reason: int) -> int:
    """How many checkpoints could not be written for this reason, an errno."""
    return sum(
        event["event"].startswith(COULD_NOT_WRITE) and os.strerror(reason) in str(event.get("error"))
        for one in site.instances
        for event in one.events()
    )


def _torn(site: Site) -> None:
    """The newest files of a killed instance's partitions are damaged, each in another way; of one partition all are."""
    name = site.any_owner()
    owned = sorted(site.instances[name].owned)
    site.proof(lambda: _files(site, owned[0]), f"a checkpoint of partition {owned[0]}, to damage it")
    site.kill(name)
    damaged = 0
    for i, partition in enumerate(owned):
        files = _files(site, partition)
        damaged += sum(_damage(site, path) for path in (files if i == 0 else files[:1]))
    site.harm.done("files damaged", damaged)
    site.start(name)


def _files(site: Site, partition: int) -> list[Path]:
    """A partition's checkpoints, the newest first."""
    return sorted(of(site.checkpoints).glob(f"*/*/{partition}/*.safetensors"), reverse=True)


def _damage(site: Site, path: Path) -> bool:
    """Whether the file is another one now."""
    whole = path.read_bytes()
    at = int(site.rng.integers(len(whole)))
    flipped = whole[:at] + bytes([whole[at] ^ (1 << int(site.rng.integers(8)))]) + whole[at + 1 :]
    ways = (whole[:at], flipped, b"", whole[:at] + bytes(len(whole) - at), b"somebody's notes")
    damaged = [way for way in ways if way != whole]  # zeros may have stood where zeros are written
    path.write_bytes(damaged[int(site.rng.integers(len(damaged)))])
    return path.read_bytes() != whole


FAULTS: tuple[Fault, ...] = (
    Fault("kill", "an instance is killed with -9", _kill),
    Fault("kill-two", "two instances are killed with -9, one while the other comes back", _kill_two),
    Fault("sleep", "an instance sleeps through its session (SIGSTOP), others take over, it wakes", _sleep),
    Fault("zombie", "an instance sleeps, another process takes its name, it wakes and must end with 3", _zombie),
    Fault("twice", "a second process of a name starts on the same host and must end with 2", _twice),
    Fault("leave", "an instance hands its partitions over and comes back, while five times as many readings come in", _leave),
    Fault("stay", "an instance is stopped and keeps its partitions", lambda site: _stop(site, leave=False)),
    Fault("join", "one more instance comes and goes", _join),
    Fault("broker-kill", "the broker is killed with -9", _broker_kill, ("broker",)),
    Fault("broker-away", f"the broker is away for {OUTAGE_S:.0f} s", _broker_away, ("broker",)),
    Fault("cut", "connections to the broker are cut and refused", _cut, ("proxy",)),
    Fault("slow", "the way to the broker is slow, then nothing comes through", _slow, ("proxy",)),
    Fault("disk-full", "the disk of the checkpoints is full, then an instance is killed with -9", _disk_full, ("checkpoints", "disk")),
    Fault("disk-read-only", "the disk of the checkpoints is read-only", _disk_read_only, ("checkpoints", "disk")),
    Fault("torn", "an instance is killed with -9 and its checkpoints are damaged", _torn, ("checkpoints",)),
    *CLUSTER_FAULTS,
)
