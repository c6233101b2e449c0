"""What lies between the brokers of a cluster: a proxy for each two of them, so that one can be cut off from its peers.

Clients reach every broker all the while, past these proxies: a broker that is cut off still answers them with what it knew before.
"""

import sys
from collections import Counter
from contextlib import ExitStack
from itertools import combinations
from types import TracebackType
from typing import Self

from processor.testbed.kafka_cluster import KafkaCluster
from processor.verify.proxy import Proxy, Route

# Elsewhere 127.0.0.1 is the one loopback address that is there.
POSSIBLE = sys.platform.startswith("linux")


class Links:
    """Of a cluster that is separable. A context manager: enter it before the cluster starts. Raises OSError."""

    def __init__(self, cluster: KafkaCluster) -> None:
        self._proxies = {
            frozenset(pair): Proxy(*(Route(way.port, way.port, way.host) for way in cluster.ways(*pair)))
            for pair in combinations(cluster.numbers, 2)
        }
        self._stack = ExitStack()

    def cut_off(self, number: int, *, quietly: bool) -> None:
        """No peer of this broker reaches it, and it reaches none. quietly: connections hang, as where a cable is out; else they end."""
        for pair, proxy in self._proxies.items():
            if number in pair:
                if quietly:
                    proxy.hang()
                else:
                    proxy.refuse()

    @property
    def harm(self) -> Counter[str]:
        """What was cut, refused and held so far, in all proxies together."""
        return sum((proxy.harm for proxy in self._proxies.values()), Counter[str]())

    def mend(self) -> None:
        for proxy in self._proxies.values():
            proxy.mend()

    def __enter__(self) -> Self:
        for proxy in self._proxies.values():
            self._stack.enter_context(proxy)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()
