"""`slotstream verify`: the service, broken in every way that there is, beside the oracle.

Responsible for the order of things: a broker, topics and instances are made, each phase breaks what its plan says while the input
flows, stops everything and compares what is left, and whatever happens nothing of it stays behind. A phase is a group of its own with
one store of checkpoints; all phases read the same input.

    starting ----------> breaking ----------> draining ----------> compared        for each phase
             all ready            time over,           all ended
                                  all kinds had        with 0
"""

import logging
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console

from processor.errors import ConfigurationError, SlotstreamError
from processor.logs import LIBRDKAFKA
from processor.settings import Settings
from processor.testbed.signals import Interrupts
from processor.verify.cluster_faults import CLUSTER_FAULTS
from processor.verify.fault import Fault
from processor.verify.faults import FAULTS
from processor.verify.feeder import Feeder
from processor.verify.instances import Instances, differing
from processor.verify.judge import DifferentError, Judge
from processor.verify.output_watch import Watch
from processor.verify.readings import Readings
from processor.verify.report import Phase, Report, Totals, listed, told
from processor.verify.schedule import deal, endless, kill_is_due
from processor.verify.site import Site
from processor.verify.stage import Stage
from processor.verify.variety import drawn


@dataclass(frozen=True)
class Options:
    """seed: of everything that is drawn. faults: their names, empty for all. config, words: the user's settings. form: more
    settings, drawn from the seed. rate: readings a
    second, of which the oracle takes a millisecond for each. forecasts: the model gives a number for each of its 4 features."""

    seed: int
    minutes: float
    kills: int
    instances: int
    rate: float
    model: Path
    forecasts: bool = False
    brokers: int = 1
    faults: tuple[str, ...] = ()
    config: Path | None = None
    words: tuple[str, ...] = ()
    form: tuple[str, ...] = ()


def main(options: Options) -> int:
    """Exit codes: 0 all was equal, 1 something was not, or failed, 2 wrong use, 130 interrupted. Ends with everything removed, but
    after a failure with the folder kept."""
    faults = chosen(options.faults, options.brokers)
    if options.kills and not {"kill", "leader-kill"} & {fault.name for fault in faults}:
        raise ConfigurationError(
            f"{options.kills} kills, and faults without kill", expected="kill among --faults", do="add it, or leave --kills out"
        )
    interrupts = Interrupts()
    interrupts.install()
    logging.getLogger(LIBRDKAFKA).setLevel(logging.CRITICAL)  # brokers that are away are what this is about
    report = Report(Console(markup=False, emoji=False, width=None if sys.stdout.isatty() else 150))
    form = drawn(options.seed, options.config, options.words, os.environ, forecasts=options.forecasts)
    options = replace(options, form=tuple(form))
    stage = Stage(options.model, options.config, (*options.form, *options.words), 2 * options.instances, options.brokers)
    with ExitStack() as stack:
        stack.callback(stage.close)
        run = Run(options, faults, stage, report, stack)
        try:
            return run.whole()
        except KeyboardInterrupt:
            sys.stderr.write("verify: interrupted, nothing was proved; what was made is removed\n")
            return 130
        except DifferentError as found:
            run.totals.differs(found.kind)
            report.difference(found)
        except SlotstreamError as error:
            if error.exit_code != 1:
                raise
            report.line(f"FAILED: {error}")
        finally:
            interrupts.ignore()
        stage.keep()
        report.plan({"last fault": run.last_fault, "kept": f"{stage.folder} ({stage.place})", "seed": str(options.seed)})
        report.last(run.totals)
    return 1


def chosen(names: Sequence[str], brokers: int = 1) -> list[Fault]:
    """The faults of these names, all without any. Raises ConfigurationError, also for those of a cluster where there is one broker."""
    known = [fault.name for fault in FAULTS]
    if unknown := [name for name in names if name not in known]:
        raise ConfigurationError(f"no fault is called {listed(unknown)}", expected=f"some of {listed(known)}", do="correct --faults")
    if brokers == 1 and (of_clusters := [fault.name for fault in CLUSTER_FAULTS if fault.name in names]):
        raise ConfigurationError(f"{listed(of_clusters)} with one broker", expected="a cluster of brokers", do="add --brokers 3")
    return [fault for fault in FAULTS if not names or fault.name in names]


class Run:
    """One run, phase by phase. Whatever it starts it puts on the stack."""

    def __init__(self, options: Options, faults: Sequence[Fault], stage: Stage, report: Report, stack: ExitStack) -> None:
        self._options, self._stage, self._report, self._stack = options, stage, report, stack
        self._faults = {fault.name: fault for fault in faults}
        self.totals = Totals(options.seed)
        self.last_fault = "none"
        self._store = ""  # of the phase
        self._begun_s: float | None = None  # of the breaking
        self._feeder: Feeder | None = None
        self._judge: Judge | None = None

    def whole(self) -> int:
        stage, stores = self._stage, self._stage.stores
        stage.build()
        possible = {store: [fault.name for fault in self._faults.values() if not self._lacks(fault, store)] for store in stores}
        if not any(possible.values()):
            reasons = dict.fromkeys(self._lacks(fault, stores[-1]) for fault in self._faults.values())
            raise ConfigurationError(
                f"none of these faults is possible here: {listed(list(reasons))}", expected="one at least", do="correct --faults"
            )
        must = deal(self._options.seed, possible)
        self._tell_plan(must)
        for number, store in enumerate(stores):
            self._phase(number, store, must[store], possible[store], last=number == len(stores) - 1)
        skipped = {fault.name: self._lacks(fault, stores[-1]) for fault in self._faults.values() if self._lacks(fault, stores[-1])}
        self._report.table(self.totals, {fault.name: fault.what for fault in self._faults.values()}, skipped)
        self._report.last(self.totals)
        return 0

    def _lacks(self, fault: Fault, store: str) -> str:
        """Why a fault is not possible in a phase; empty if it is."""
        missing = self._stage.missing | ({} if store == "directory" else {"checkpoints": "checkpoints are in a topic"})
        return next((missing[need] for need in fault.needs if need in missing), "")

    def _tell_plan(self, must: Mapping[str, Sequence[str]]) -> None:
        options = self._options
        lines = {
            "seed": str(options.seed),
            "broker": self._stage.place,
            "model": str(options.model),
            "records": shlex.join(options.form) or "as the settings have them",
            "instances": f"{options.instances}, {self._stage.partitions} partitions, {options.rate:.0f} readings a second",
            "time": f"{options.minutes:g} minutes, {options.kills} kills at least, and every kind of fault once",
        }
        self._report.plan(lines | {f"phase {store}": f"{listed(kinds)}, then any" for store, kinds in must.items()})

    # -- a phase ----------------------------------------------------------------------------------------------------------

    def _phase(self, number: int, store: str, must: Sequence[str], possible: Sequence[str], *, last: bool) -> None:
        self._store = store
        site = self._start(number, store)
        self._break(site, number, must, possible, last=last)
        self._drain(site)
        self.totals.must_prove(store)
        phase = self.totals.phases[store]
        self._report.line(
            f"{store}: every record was answered once, and as by the oracle: "
            f"compared {phase.predictions} predictions, {phase.filling} answers of windows that were not full, "
            f"{phase.dead_letters} dead letters, and {phase.alarms} records of alarms"
        )

    def _start(self, number: int, store: str) -> Site:
        """The phase's instances, ready, and the input flowing."""
        options, stage = self._options, self._stage
        settings = stage.create_topics(store)
        rng = np.random.default_rng((options.seed, 3, number))
        different = differing(options.instances, lambda below: int(rng.integers(below)), stage.through_proxy)
        instances = Instances(stage.words(store), different, stage.folder / store)
        self._stack.callback(instances.close)
        for name in sorted(different)[: options.instances]:
            instances.start(name)
            self._report.line(f"{store}: starting {name} {' '.join(different[name])}")
        feeder, judge = self._fed(store, settings)
        watch = Watch(settings, judge, stage.partitions, lambda: feeder.last_due)
        self._stack.callback(watch.end)
        watch.start()
        checkpoints = stage.checkpoints if store == "directory" else None
        site = Site(
            settings,
            stage.partitions,
            rng,
            instances,
            feeder,
            judge,
            watch,
            broker=stage.broker,
            links=stage.links,
            proxy=stage.proxy,
            disk=stage.disk,
            checkpoints=checkpoints,
            tell=self._tell,
        )
        site.wait(lambda: all(one.ready for one in instances), "every instance to be ready")
        feeder.boost = 1.0
        site.wait(lambda: feeder.acknowledged, "the first readings")
        site.settle()
        self._report.line(f"{store}: every instance is ready, and all is answered so far")
        watch.stalls.forget()
        self._begun_s = self._begun_s or time.monotonic()
        return site

    def _fed(self, store: str, settings: Settings) -> tuple[Feeder, Judge]:
        """The feeder and the judge of the whole run, made while the first instances start: the model takes seconds to load here too."""
        if self._feeder is None or self._judge is None:
            from processor.app.fit import fingerprint_of, load_model
            from processor.verify.oracle import Reference

            model = load_model(settings)
            reference = Reference(model, settings, fingerprint_of(settings, model)[:8])
            self._judge = judge = Judge(reference.feed, reference.key_of, reference.headers_of, reference.take_alarms)
            records = Readings(
                self._options.seed,
                settings,
                features=model.features,
                partitions=self._stage.partitions,
                start_ms=int(time.time() * 1000),
                categories=model.inputs.categories,
            )
            producer = self._stage.producer(store)
            self._feeder = Feeder(producer, settings.input.topic, records, self._options.rate, lambda: judge.open)
            self._stack.callback(self._feeder.abandon)
            self._feeder.start()
        return self._feeder, self._judge

    def _break(self, site: Site, number: int, must: Sequence[str], possible: Sequence[str], *, last: bool) -> None:
        """Fault after fault, until the phase's time is over, it has had all that it must have, and the kills are done."""
        had = 0
        names = endless(self._options.seed, number, must, possible)
        share_max = (number + 1) / len(self._stage.stores)
        # The kills that the user wants are of instances, or of leading brokers where no other kind is chosen.
        kind = next((name for name in ("kill", "leader-kill") if name in possible), "")
        while True:
            kill = bool(kind) and kill_is_due(self._options.kills, self._kills(kind), min(self._share, share_max))
            if had >= len(must) and self._share >= share_max and not (kill and last):
                return
            if (name := next(names, None) if had < len(must) or not kill else kind) is None:
                site.pause(1, "the time to be over; no fault is possible here")
                continue
            had += 1
            self._one(site, self._faults[name])

    def _one(self, site: Site, fault: Fault) -> None:
        report, answers, begun_s = self._report, site.watch.answers, time.monotonic()
        self.last_fault = f"{fault.name} ({fault.what}), begun at {report.elapsed_s:.0f} s"
        report.line(f"{fault.name}: {fault.what}")
        site.watch.stalls.taken()
        harm = fault.inflict(site)
        site.settle()
        self._count(site)
        stall_s = site.watch.stalls.taken()
        self.totals.survived(fault.name, stall_s, harm)
        rate = (site.watch.answers - answers) / (time.monotonic() - begun_s)
        report.line(f"{fault.name}: survived, {told(harm)}; {rate:.0f} answers a second, none for {stall_s:.1f} s at most")

    def _drain(self, site: Site) -> None:
        """No new readings, the last answers, and every instance stopped: then the topics must hold what they should, and no more."""
        self._report.line("no new readings; waiting for the last answers")
        site.feeder.boost = 0.0
        site.wait(lambda: site.feeder.acknowledged == site.feeder.sent, "the broker to acknowledge all readings")
        site.settle()
        site.instances.stop_all()
        site.watch.read_to_end()
        site.wait(lambda: site.watch.at_end, "the topics to be read to their end")
        site.watch.end()
        if site.watch.failure is not None:
            raise site.watch.failure
        site.judge.finish()
        self._count(site)
        if (lost := site.feeder.acknowledged - site.judge.records) > 0:
            raise SlotstreamError(
                f"{lost} readings that the broker acknowledged are not in the input topic",
                expected=f"{site.feeder.acknowledged} records",
                do="look at the broker's log and at the replication of the topic; the service cannot answer what it never saw",
            )

    def _count(self, site: Site) -> None:
        judge, totals = site.judge, self.totals
        totals.records = judge.records
        # The judge counts all phases together.
        before = [phase for store, phase in totals.phases.items() if store != self._store]
        totals.phases[self._store] = Phase(
            judge.compared["prediction"] - sum(phase.predictions for phase in before),
            judge.compared["filling"] - sum(phase.filling for phase in before),
            judge.compared["dead letter"] - sum(phase.dead_letters for phase in before),
            site.instances.kills,
            site.instances.starts,
            judge.compared["alarm"] - sum(phase.alarms for phase in before),
        )

    def _kills(self, kind: str) -> int:
        """How many there were so far."""
        score = self.totals.scores.get(kind)
        return self.totals.kills if kind == "kill" else score.survived if score else 0

    @property
    def _share(self) -> float:
        """Of the time for breaking, how much is over."""
        return 0.0 if self._begun_s is None else (time.monotonic() - self._begun_s) / (60 * self._options.minutes)

    def _tell(self, what: str) -> None:
        judge = self._judge
        self._report.line(f"  waiting for {what}" + (f"; {judge.records} records, {judge.open} not compared yet" if judge else ""))
