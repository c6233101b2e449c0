"""Models of an MLflow registry, by its REST API: an alias or a version, and the Keras file among its artifacts."""

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from processor.errors import ConfigurationError
from processor.remote.object_store import StoredObject
from processor.remote.place import Pinned, missing
from processor.remote.web import asked, authorization, environment, opened, parts
from processor.settings import Location

ENDINGS = (".keras", ".h5", ".hdf5")
DEPTH_MAX = 4


class RegisteredModel:
    """mlflow:models:/NAME/VERSION or mlflow:models:/NAME@ALIAS. options: tracking_uri; token, or username and password; others are for the
    object store that the registry keeps its artifacts in."""

    def __init__(self, location: Location, options: Mapping[str, str]) -> None:
        self.shown = str(location)
        self._name, self._version, self._alias = location.registered
        self._server = (options.get("tracking_uri") or environment("URI")).rstrip("/")
        if urlsplit(self._server).scheme not in ("http", "https"):
            raise ConfigurationError(
                f"model.path is {location}, and the MLflow server is {self._server or 'not named'}",
                expected="its address, http:// or https://",
                do="set model.store: {tracking_uri: https://HOST}, or MLFLOW_TRACKING_URI",
                see="the-model-cannot-be-fetched",
            )
        of_server = ("token", "username", "password")
        given = {name: options.get(name) or environment(name.upper()) for name in of_server}
        self._headers = authorization({name: value for name, value in given.items() if value})
        self._of_store = {key: value for key, value in options.items() if key not in ("tracking_uri", *of_server)}

    def look(self) -> Pinned:
        if self._version is not None:
            found = self._ask("model-versions/get", name=self._name, version=self._version)
        else:
            found = self._ask("registered-models/alias", name=self._name, alias=str(self._alias))
        version = str(found["model_version"]["version"])
        return Pinned(version, f"version {version} of {self._name}", None)

    def read(self, pinned: Pinned) -> Iterator[bytes]:
        root = self._ask("model-versions/get-download-uri", name=self._name, version=str(pinned.version))["artifact_uri"]
        scheme = urlsplit(root).scheme
        if scheme in ("s3", "gs"):
            file = StoredObject(f"{root.rstrip('/')}/data/model.keras", self._of_store)
            yield from file.read(file.look())
        elif scheme in ("mlflow-artifacts", "http", "https"):
            path = urlsplit(root).path.partition("/mlflow-artifacts/artifacts/")[2] or urlsplit(root).path.lstrip("/")
            with opened(f"{self._artifacts}/{quote(self._file_in(path))}", self.shown, self._headers) as answer:
                yield from parts(answer, self.shown)
        else:
            raise ConfigurationError(
                f"the artifacts of {self.shown} lie at {root}, which only the MLflow server itself can read",
                expected="artifacts that the server hands out, or in s3:// or gs://",
                do="start it with --serve-artifacts and register the model again, or copy the Keras file and name that in model.path",
                see="the-model-cannot-be-fetched",
            )

    @property
    def _artifacts(self) -> str:
        return f"{self._server}/api/2.0/mlflow-artifacts/artifacts"

    def _ask(self, what: str, **query: str) -> Any:
        return asked(f"{self._server}/api/2.0/mlflow/{what}", self.shown, self._headers, **query)

    def _file_in(self, folder: str) -> str:
        """The one Keras file below a folder of artifacts."""
        found = sorted(self._below(folder, DEPTH_MAX))
        usual = [path for path in found if path.endswith("data/model.keras")]
        if len(found) != 1 and len(usual) != 1:
            what = f"it holds {len(found)} Keras files: {', '.join(found)}" if found else "it holds no .keras or .h5 file"
            raise missing(self.shown, what)
        return (usual or found)[0]

    def _below(self, folder: str, depth: int) -> Iterator[str]:
        listing = asked(self._artifacts, self.shown, self._headers, path=folder)
        for entry in listing.get("files", []):
            path = f"{folder.rstrip('/')}/{entry['path'].rpartition('/')[2]}"
            if entry.get("is_dir") and depth:
                yield from self._below(path, depth - 1)
            elif path.endswith(ENDINGS):
                yield path
