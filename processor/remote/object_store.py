"""Objects of S3 and Google Cloud Storage, read by obstore (the extra `remote`)."""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from processor.errors import ConfigurationError, SlotstreamError
from processor.remote.place import Pinned, missing, refused, unreachable

HOW = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or model.store: {access_key_id: ..., secret_access_key: {file: PATH}}, or give "
    "this machine a role that has s3:GetObject",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or model.store: {service_account: PATH}, or give this machine an account that may read it",
}
ATTEMPTS, TIMEOUT = 2, timedelta(seconds=30)


class StoredObject:
    """s3://BUCKET/KEY or gs://BUCKET/KEY. options: obstore's, such as region, endpoint and access_key_id."""

    def __init__(self, url: str, options: Mapping[str, str]) -> None:
        try:
            import obstore
            from obstore.store import from_url
        except ImportError as error:
            raise ConfigurationError(
                f"model.path is {url}, and obstore is not installed",
                expected="the extra remote",
                do="pip install 'slotstream[remote]'",
                see="the-model-cannot-be-fetched",
            ) from error
        self.shown, self._obstore, self._scheme = url, obstore, url.partition(":")[0]
        bucket, _, self._key = url.partition("://")[2].partition("/")
        client = {"timeout": TIMEOUT, "allow_http": options.get("endpoint", "").startswith("http://")}
        retry: Any = {"max_retries": ATTEMPTS, "retry_timeout": TIMEOUT}
        try:
            self._store = from_url(f"{self._scheme}://{bucket}", config=dict(options), client_options=client, retry_config=retry)
        except Exception as error:  # obstore's own, of several kinds without a common base
            raise ConfigurationError(
                f"model.store does not fit {url}: {_first(error)}",
                expected="options of obstore",
                do="correct model.store",
                see="the-model-cannot-be-fetched",
            ) from error

    def look(self) -> Pinned:
        with_meta = self._called(lambda: self._obstore.head(self._store, self._key))
        version = with_meta.get("version") or with_meta.get("e_tag")
        return Pinned(version, str(version), int(with_meta["size"]))

    def read(self, pinned: Pinned) -> Iterator[bytes]:
        answer = self._called(lambda: self._obstore.get(self._store, self._key))
        if pinned.version not in (answer.meta.get("version"), answer.meta.get("e_tag"), None):
            raise SlotstreamError(f"{self.shown} changed while it was read", expected="an object that stays", do="start again")
        left = iter(answer.stream())
        while (part := self._called(lambda: next(left, None))) is not None:
            yield bytes(part)

    def _called(self, call: Any) -> Any:
        kinds = self._obstore.exceptions
        try:
            return call()
        except (kinds.NotFoundError, FileNotFoundError) as error:
            raise missing(self.shown, _first(error)) from None
        except (kinds.PermissionDeniedError, kinds.UnauthenticatedError, PermissionError) as error:
            raise refused(self.shown, _first(error), HOW[self._scheme]) from None
        except Exception as error:  # noqa: BLE001 (obstore's own kinds have no common base)
            raise unreachable(self.shown, _first(error)) from None


def _first(error: BaseException) -> str:
    text = " ".join(str(error).partition("Debug source:")[0].split())
    return text if len(text) <= 200 else f"{text[:197]}..."
