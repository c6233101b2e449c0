"""The rules of the simulation: what may happen to a group of processes, in any order. With the service's parts or with faulty ones."""

import hypothesis
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from simulation import PARTITIONS, Judge, Parts, Process, World

NAMES = st.sampled_from(["a", "b"])
READINGS = st.integers(-3, 3).map(lambda number: b'{"values":[%d]}' % number)
HEALING_TURNS, COMMITTED_TURNS = 400, 14
# What comes first is tried most.
MISHAPS = (
    "restart",
    "abort_the_next_commit",
    "lose",
    "restart",
    "revoke",
    "abort_the_next_publish",
    "fence",
    "time_out",
    "start",
    "crash",
    "take_the_name",
    "wake",
    "stop",
    "stop_and_keep_the_place",
    "displace",
    "suspend_and_resume",
    "be_away",
    "fill_the_disk",
    "end_a_senders_transaction",
)


class Machine(RuleBasedStateMachine):
    parts = Parts()

    @initialize(in_topic=st.booleans(), commit_s=st.sampled_from([0.1, 0.03]), checkpoint_s=st.sampled_from([0.02, 0.2]))
    def begin(self, in_topic: bool, commit_s: float, checkpoint_s: float) -> None:
        self.world = World(in_topic, commit_s, checkpoint_s, self.parts)
        self.broker, self.judge = self.world.broker, Judge(self.world)
        self.processes: dict[str, Process] = {}
        self.displaced: list[Process] = []  # another process has their name, and they have not heard of it
        self.starts, self.now_ms = 0, 1_000_000
        self.start("a")

    @rule(
        partition=st.integers(0, PARTITIONS - 1),
        keys=st.lists(st.sampled_from([b"x", b"y", b"z"]), min_size=1, max_size=6),
        value=READINGS | READINGS | READINGS | st.none() | st.just(b"{"),
        passed_ms=st.sampled_from([0, 10, 1000, 100_000]),
        turns=st.integers(0, 20),
    )
    def feed(self, partition: int, keys: list[bytes], value: bytes | None, passed_ms: int, turns: int) -> None:
        self.now_ms += passed_ms
        for key in keys:
            self.broker.feed(partition, key, value, self.now_ms)
        self.turn(turns)

    @rule(what=st.sampled_from(MISHAPS), name=NAMES, turns=st.integers(0, 6))
    def mishap(self, what: str, name: str, turns: int) -> None:
        """In the middle of work: something was fed and committed, then something more, and so many turns later it happens."""
        for some in (COMMITTED_TURNS, 0):
            for partition in range(PARTITIONS):
                self.broker.feed(partition, b"x", b'{"values":[2]}', self.now_ms)
            self.turn(some)
        self.turn(turns)
        getattr(self, what)(name)

    @rule(seconds=st.sampled_from([0.05, 0.3, 2.0, 11.0, 35.0]))
    def pass_time(self, seconds: float) -> None:
        """Open transactions time out after 10 s, and the sessions of processes that are gone after 30 s."""
        self.broker.clock.sleep(seconds)
        for name, process in self.processes.items():
            self.broker.heartbeat(name, process.membership.reader.member_id)
        self.broker.end_sessions()

    def turn(self, turns: int) -> None:
        for _ in range(turns):
            self.processes = {name: process for name, process in self.processes.items() if process.turn()}

    # -- what processes do ----------------------------------------------------------------------------------------------------

    def start(self, name: str) -> None:
        if name not in self.processes:
            self.starts += 1
            self.processes[name] = Process(self.world, name, f"slotstream#{self.starts:08x}")

    def crash(self, name: str) -> None:
        self.processes.pop(name, None)

    def restart(self, name: str) -> None:
        self.crash(name)
        self.start(name)

    def stop(self, name: str, *, leave: bool = True) -> None:
        if process := self.processes.pop(name, None):
            process.loop.stop(leave=leave)

    def stop_and_keep_the_place(self, name: str) -> None:
        self.stop(name, leave=False)

    def suspend_and_resume(self, name: str) -> None:
        """As when a permission is taken away and given back."""
        if (process := self.processes.get(name)) and self.broker.accepts(name, process.membership.reader.member_id):
            process.loop.suspend()
            process.loop.resume()

    def take_the_name(self, name: str) -> None:
        """A second process of the name starts on another host while the first one still runs."""
        if name in self.processes:
            self.displaced.append(self.processes.pop(name))
            self.start(name)

    def wake(self, _name: str) -> None:
        """A process that lost its name goes on, until it hears of it."""
        self.displaced = [process for process in self.displaced if process.turn()]

    # -- what the broker does ---------------------------------------------------------------------------------------------------

    def revoke(self, _name: str) -> None:
        self.broker.turned += 1
        self.broker.deal()

    def lose(self, name: str) -> None:
        """The session is over, and others may have the partitions before the process hears of it."""
        self.broker.expire(name)

    def displace(self, name: str) -> None:
        """The client is another member now, and keeps its partitions without a word of their loss."""
        if (process := self.processes.get(name)) and process.membership.joined:
            process.membership.reader.displaced = True  # type: ignore[attr-defined]
            self.broker.expire(name)

    def abort_the_next_publish(self, _name: str) -> None:
        self.broker.faults.setdefault("publish", []).append("abort")

    def abort_the_next_commit(self, _name: str) -> None:
        self.broker.faults.setdefault("commit", []).append("abort")

    def fence(self, name: str) -> None:
        if name in self.processes:
            self.broker.fence(name)

    def time_out(self, _name: str) -> None:
        self.pass_time(11.0)

    def be_away(self, _name: str) -> None:
        self.broker.away = 3

    def fill_the_disk(self, _name: str) -> None:
        self.world.files.fails = 1

    def end_a_senders_transaction(self, name: str) -> None:
        """A control record lies at the end of a log."""
        self.broker.log[0 if name == "a" else 1].append(None)

    # -- what must hold ---------------------------------------------------------------------------------------------------------

    @invariant()
    def what_is_committed_is_right(self) -> None:
        self.judge.check()

    def teardown(self) -> None:
        """In the end all is well again: every reading is answered, also those that come after one more crash."""
        if not hasattr(self, "world"):
            return
        for process in self.processes.values():
            self.judge.check_recent(process.recent)
        self.broker.faults.clear()
        self.broker.away = self.world.files.fails = 0
        self._heal()
        for name in list(self.processes):
            self.restart(name)
        for partition in range(PARTITIONS):
            for key in (b"x", b"y", b"z"):
                self.broker.feed(partition, key, b'{"values":[1]}', self.now_ms)
        self._heal()

    def _heal(self) -> None:
        self.pass_time(35.0)
        for _ in range(HEALING_TURNS):
            self.start("a")  # as a supervisor does
            self.turn(1)
            self.what_is_committed_is_right()
            committed = self.broker.committed
            if all(committed.get(number, (0, ""))[0] >= self.broker.end(number) for number in range(PARTITIONS)):
                break
        self.judge.check(complete=True)


def simulate(parts: Parts, *, seed: int, examples: int, steps: int, shrink: bool = True) -> None:
    """Runs so many examples of so many steps each; raises at the first thing that is wrong. The seed makes the same ones again."""
    print(f"simulation: seed {seed}, {examples} examples of {steps} steps")
    machine = type("Simulated", (Machine,), {"parts": parts})
    run_state_machine_as_test(
        hypothesis.seed(seed)(machine),
        settings=hypothesis.settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            print_blob=False,
            report_multiple_bugs=False,
            phases=[Phase.generate, *([Phase.shrink] if shrink else [])],
        ),
    )
