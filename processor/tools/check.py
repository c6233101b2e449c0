"""`slotstream check`: everything that would keep `run` from working, found before it runs, each with what to do.

Changes nothing: a transaction is begun and aborted under a name of its own, so that no running instance is fenced.
"""

import stat
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from processor.doctor.records import records
from processor.errors import SlotstreamError
from processor.service import check_sizes, codec_of, load_model, open_folder, open_parking, shapes_of
from processor.settings import Settings
from processor.stream import admin
from processor.stream.admin import Finding
from processor.stream.refusal import certificates, expiry, is_expired
from processor.stream.transaction import try_transaction

if TYPE_CHECKING:
    from processor.model.load import ServableModel


def check(settings: Settings) -> list[Finding]:
    model, on_model = _model(settings)
    findings = [*on_model, *_secrets(settings)]
    if settings.checkpoint_store == "directory":
        findings.append(_tried("checkpoints", f"{settings.checkpoint.path} can be written to", lambda: open_folder(settings)))
    if settings.parking.path is not None:
        findings.append(_tried("parking", f"{settings.parking.path} can be written to", lambda: open_parking(settings)))
    on_broker = admin.check(settings)
    findings += on_broker
    if on_broker[0].good and settings.delivery == "exactly_once":
        has_checkpoints = any(finding.good and finding.what == "checkpoint.topic" for finding in on_broker)
        findings.append(_tried("transactions", "the broker takes them", lambda: try_transaction(settings, with_record=has_checkpoints)))
    if on_broker[0].good:
        findings += _records(settings, model)
    return findings


def _model(settings: Settings) -> tuple["ServableModel | None", list[Finding]]:
    """The model, None where it or its columns will not do, and what is to be said of it."""
    try:
        model = load_model(settings)
    except SlotstreamError as error:
        return None, [Finding(False, "model", error.found, error.do)]
    found = [Finding(True, "model", f"{model.path}: {model.mode}, {model.features} features, {model.outputs} outputs; {model.why}")]
    try:
        shapes = shapes_of(model, settings)
    except SlotstreamError as error:
        return None, [*found, Finding(False, "columns", error.found, error.do)]
    try:
        topics = admin.describe(settings)
    except SlotstreamError:
        return model, found  # the broker's findings say so
    sizes = _tried("sizes", "settings, model and topics agree", lambda: check_sizes(settings, topics, shapes, per_step=model.per_step))
    return model, [*found, sizes]


def _records(settings: Settings, model: "ServableModel | None") -> Iterator[Finding]:
    try:
        topic = admin.describe_sampled(settings)
    except SlotstreamError:
        return  # the broker's findings say so
    yield from records(settings, topic, codec_of(settings, model, "check") if model is not None else None)


def _secrets(settings: Settings) -> Iterator[Finding]:
    """The files that secrets came from, and how long the client's own certificate is valid."""
    for key, path in settings.secret_files().items():
        open_to = " (every user of this machine may read it: chmod o-r)" if path.stat().st_mode & stat.S_IROTH else ""
        yield Finding(True, key, f"read from {path}{open_to}")
    for key, certificate in certificates(settings.kafka_config()):
        expired = is_expired(certificate)
        found = f"{certificate.subject.rfc4514_string()}, {'expired on' if expired else 'valid until'} {expiry(certificate):%Y-%m-%d}"
        yield Finding(not expired, key, found, "have it renewed" if expired else "")


def _tried(what: str, good: str, run: Callable[[], object]) -> Finding:
    try:
        run()
    except SlotstreamError as error:
        return Finding(False, what, error.found, error.do)
    return Finding(True, what, good)
