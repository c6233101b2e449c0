"""What is broken of a cluster of brokers. Each fault returns when the cluster is whole again: every replica in sync.

Which broker is hit is decided by what it does at that moment: it leads a partition that is read or written, or coordinates the group
or an instance's transactions.
"""

import functools

from processor.testbed.kafka_cluster import OFFSETS, TRANSACTIONS
from processor.verify.fault import BOOST, OUTAGE_S, Fault, end_brokers, of
from processor.verify.site import Site

WHOLE_S = 180.0


def _leader_kill(site: Site) -> None:
    _kill(site, _any_leader(site), away_max_s=5.0)


def _coordinator_kill(site: Site) -> None:
    _kill(site, _any_coordinator(site), away_max_s=5.0)


def _kill(site: Site, *numbers: int, away_max_s: float) -> None:
    end_brokers(site, lambda: of(site.cluster).kill(*numbers))
    site.pause(float(site.rng.uniform(0, away_max_s)), f"broker {_listed(numbers)}, which is dead, to be missed")
    _bring_back(site, *numbers)


def _rolling(site: Site) -> None:
    """In good order, one after the other, each when the one before it is in sync again."""
    cluster = of(site.cluster)
    for number in site.rng.permutation(cluster.numbers).tolist():
        end_brokers(site, functools.partial(cluster.stop, number))
        _bring_back(site, number)


def _two_away(site: Site) -> None:
    """One of three is left: no controller, nothing is acknowledged, and no transaction can be ended while it is open too long."""
    cluster = of(site.cluster)
    away = sorted(site.rng.permutation(cluster.numbers).tolist()[:2])
    end_brokers(site, lambda: cluster.kill(*away))
    site.pause(OUTAGE_S, f"brokers {_listed(away)}, which are dead")
    _bring_back(site, *away)


def _leaders_move(site: Site) -> None:
    """A broker that was restarted leads nothing: it gets its partitions back while all brokers run and the instances are busy."""
    cluster = of(site.cluster)
    number = _any_leader(site)
    cluster.stop(number)
    _bring_back(site, number)
    site.feeder.boost = BOOST
    try:
        site.pause(float(site.rng.uniform(0, 2)), "more readings")
        site.harm.done("leaders moved", cluster.elect_preferred_leaders())
        site.pause(2.0, "the leaders, which move")
    finally:
        site.feeder.boost = 1.0


def _cut_off(site: Site) -> None:
    """One broker no longer reaches its peers, nor they it, and clients reach all: for as long as a hiccup, or for longer than a
    transaction may be open. The others elect leaders in its place; it goes on to believe that it leads."""
    links = of(site.links)
    number = _any_leader(site) if site.rng.integers(2) else _any_coordinator(site)
    before = links.harm
    links.cut_off(number, quietly=bool(site.rng.integers(2)))
    try:
        site.pause(float(site.rng.choice((4.0, OUTAGE_S))), f"broker {number}, which is cut off from its peers")
        site.harm.done("connections cut or held", (links.harm - before).total())
    finally:
        links.mend()
    _whole_again(site)


def _bring_back(site: Site, *numbers: int) -> None:
    of(site.cluster).launch(*numbers)
    _whole_again(site)


def _whole_again(site: Site) -> None:
    site.wait(of(site.cluster).whole, "every replica to be in sync", WHOLE_S)


def _any_leader(site: Site) -> int:
    """Of a partition of the input, of the predictions, or of the checkpoints."""
    settings = site.settings
    topics = [settings.input.topic, settings.output.topic]
    if site.checkpoints is None and settings.checkpoint_topic:
        topics.append(settings.checkpoint_topic)
    return of(site.cluster).leader(site.any_of(topics), int(site.rng.integers(site.partitions)))


def _any_coordinator(site: Site) -> int:
    """Of the group, or of the transactions of an instance that has partitions."""
    cluster, group = of(site.cluster), site.settings.group_id
    if site.rng.integers(2):
        return cluster.coordinator(OFFSETS, group)
    return cluster.coordinator(TRANSACTIONS, f"{group}.{site.any_owner()}")


def _listed(numbers: tuple[int, ...] | list[int]) -> str:
    return " and ".join(map(str, numbers))


CLUSTER_FAULTS: tuple[Fault, ...] = (
    Fault("leader-kill", "the broker that leads a partition is killed with -9", _leader_kill, ("cluster",)),
    Fault("coordinator-kill", "the broker that coordinates the group or transactions is killed with -9", _coordinator_kill, ("cluster",)),
    Fault("rolling", "all brokers are restarted, one after the other", _rolling, ("cluster",)),
    Fault("two-away", f"two of three brokers are away for {OUTAGE_S:.0f} s", _two_away, ("cluster",)),
    Fault("leaders-move", "a broker is restarted and gets its leaders back while many readings come in", _leaders_move, ("cluster",)),
    Fault("cut-off", "a broker is cut off from its peers, and clients still reach it", _cut_off, ("links",)),
)
