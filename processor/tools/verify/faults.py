"""What is broken: each fault does its harm, mends it, and leaves a group that is whole again; the waiting for that is its caller's.

A fault returns when its harm is over. It fails where something ended otherwise than it must: with another exit code, or not at all.
"""

from pathlib import Path

from processor.tools.verify.cluster_faults import CLUSTER_FAULTS
from processor.tools.verify.fault import BOOST, OUTAGE_S, Fault, of
from processor.tools.verify.instances import STOP_PATIENCE_S, Running, leaving
from processor.tools.verify.site import Site

SESSION_S = 6.0
END_S = 120.0
COULD_NOT_WRITE = "a checkpoint could not be written"


# Processes.


def _kill(site: Site) -> None:
    site.start(site.instances.kill(site.any_owner()).name)


def _kill_two(site: Site) -> None:
    """The second one while the first one is on its way back."""
    first = site.instances.kill(site.any_owner()).name
    site.start(first)
    second = site.any_of([name for name in site.instances.names if name != first])
    site.pause(float(site.rng.uniform(0, 3)), f"{first} to begin its way back")
    site.instances.kill(second)
    site.start(second)


def _sleep(site: Site) -> None:
    """Longer than the session: others take its partitions, whatever it had open is aborted, and it finds that out when it wakes."""
    sleeper = site.instances[site.any_owner()]
    sleeper.sleep()
    site.pause(SESSION_S + 2, f"the session of {sleeper.name}, which sleeps, to be over")
    site.settle(ready=False)
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


def _twice(site: Site) -> None:
    name = site.any_of(site.instances.names)
    _must_end(site, site.instances.start_beside(name, elsewhere=False), 2)


def _leave(site: Site) -> None:
    """Partitions move away and back while the loops have their hands full."""
    site.feeder.boost = BOOST
    try:
        _stop(site, leave=True)
        site.wait(lambda: all(one.ready for one in site.instances), "the instance that left to be back")
    finally:
        site.feeder.boost = 1.0


def _stop(site: Site, *, leave: bool) -> None:
    stopped = site.instances.forget(site.any_owner(leaving(site.instances.options, leave=leave)))
    stopped.terminate()
    _must_end(site, stopped, 0)
    site.start(stopped.name)


def _join(site: Site) -> None:
    """One more comes, works for a while, and goes."""
    name = next(name for name in sorted(site.instances.options) if name not in site.instances.names)
    more = site.start(name)
    site.wait(lambda: more.ready and more.owned, f"{name} to have partitions")
    site.settle(ready=False)
    site.instances.forget(name)
    more.terminate()
    _must_end(site, more, 0)


def _must_end(site: Site, one: Running, code: int) -> None:
    site.wait(lambda: one.exit_code is not None, f"{one.name} to end with exit code {code}", max(END_S, STOP_PATIENCE_S))
    if one.exit_code != code:
        raise one.failed(f"{one.name} ended with exit code {one.exit_code}", f"exit code {code}")


# The broker, and the way to it.


def _broker_kill(site: Site) -> None:
    broker = of(site.broker)
    broker.kill()
    broker.start()


def _broker_away(site: Site) -> None:
    broker = of(site.broker)
    broker.stop()
    site.pause(OUTAGE_S, "the broker, which is away")
    broker.start()


def _cut(site: Site) -> None:
    """The connections of one instance end again and again, then nothing is let in for a while."""
    proxy = of(site.proxy)
    for _ in range(int(site.rng.integers(2, 6))):
        proxy.cut()
        site.pause(float(site.rng.uniform(0.1, 1.0)), "new connections, to be cut too")
    proxy.refuse()
    site.pause(float(site.rng.uniform(0.5, 4.0)), "the way to the broker, which is shut")
    proxy.mend()


def _slow(site: Site) -> None:
    """Everything takes long, then nothing comes through at all, for less or for more than the session."""
    proxy = of(site.proxy)
    proxy.slow(float(site.rng.uniform(0.05, 0.5)))
    site.pause(float(site.rng.uniform(2, 5)), "the way to the broker, which is slow")
    proxy.hang()
    site.pause(float(site.rng.choice((2.0, SESSION_S + 2))), "the way to the broker, where nothing comes through")
    proxy.mend()
    site.pause(float(site.rng.uniform(0, 3)), "the instance to hear what it has missed")


# The disk.


def _disk_full(site: Site) -> None:
    disk = of(site.disk)
    disk.fill()
    try:
        _wait_for_complaint(site)
    finally:
        disk.free()
    _kill(site)  # what could not be written must not be missed


def _disk_read_only(site: Site) -> None:
    disk = of(site.disk)
    disk.read_only()
    try:
        _wait_for_complaint(site)
    finally:
        disk.writable()


def _wait_for_complaint(site: Site) -> None:
    told = {one.name: _complaints(one) for one in site.instances}
    site.wait(lambda: any(_complaints(one) > told[one.name] for one in site.instances), "an instance to say that it cannot write")


def _complaints(one: Running) -> int:
    return sum(event["event"].startswith(COULD_NOT_WRITE) for event in one.events())


def _torn(site: Site) -> None:
    """The newest files of a killed instance's partitions are damaged, each in another way; of one partition all are."""
    name = site.any_owner()
    owned = sorted(site.instances[name].owned)
    site.instances.kill(name)
    for i, partition in enumerate(owned):
        files = sorted(of(site.checkpoints).glob(f"*/*/{partition}/*.safetensors"), reverse=True)
        for path in files if i == 0 else files[:1]:
            _damage(site, path)
    site.start(name)


def _damage(site: Site, path: Path) -> None:
    whole = path.read_bytes()
    at = int(site.rng.integers(len(whole)))
    flipped = whole[:at] + bytes([whole[at] ^ (1 << int(site.rng.integers(8)))]) + whole[at + 1 :]
    damaged = (whole[:at], flipped, b"", whole[:at] + bytes(len(whole) - at), b"somebody's notes")
    path.write_bytes(damaged[int(site.rng.integers(len(damaged)))])


FAULTS: tuple[Fault, ...] = (
    Fault("kill", "an instance is killed with -9", _kill),
    Fault("kill-two", "two instances are killed with -9, one while the other comes back", _kill_two),
    Fault("sleep", "an instance sleeps through its session (SIGSTOP), others take over, it wakes", _sleep),
    Fault("zombie", "an instance sleeps, another process takes its name, it wakes and must end with 3", _zombie),
    Fault("twice", "a second process of a name starts on the same host and must end with 2", _twice),
    Fault("leave", "an instance hands its partitions over and comes back, while five times as many readings come in", _leave),
    Fault("stay", "an instance is stopped and keeps its partitions", lambda site: _stop(site, leave=False)),
    Fault("join", "one more instance comes and goes", _join),
    Fault("broker-kill", "the broker, or each of them at once, is killed with -9", _broker_kill, ("broker",)),
    Fault("broker-away", f"the broker, or the whole cluster, is away for {OUTAGE_S:.0f} s", _broker_away, ("broker",)),
    Fault("cut", "connections to the broker are cut and refused", _cut, ("proxy",)),
    Fault("slow", "the way to the broker is slow, then nothing comes through", _slow, ("proxy",)),
    Fault("disk-full", "the disk of the checkpoints is full, then an instance is killed with -9", _disk_full, ("checkpoints", "disk")),
    Fault("disk-read-only", "the disk of the checkpoints is read-only", _disk_read_only, ("checkpoints", "disk")),
    Fault("torn", "an instance is killed with -9 and its checkpoints are damaged", _torn, ("checkpoints",)),
    *CLUSTER_FAULTS,
)
