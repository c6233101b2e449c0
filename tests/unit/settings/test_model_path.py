"""model.path, model.store and model.code: what is a location, what is a secret, and what decides."""

from pathlib import Path

import pytest

from processor.errors import ConfigurationError
from processor.settings import Location, load_settings


@pytest.mark.parametrize("path", ["model.keras", "/models/a.h5", "C:model.keras", "folder/s3"])
def test_a_path_stays_a_path(path: str) -> None:
    assert load_settings(None, [f"--model.path={path}"], {}).model.path == Path(path)


@pytest.mark.parametrize(
    ("path", "shown", "name"),
    [
        ("s3://bucket/a//model.keras", "s3://bucket/a//model.keras", "model.keras"),
        ("https://me:pw@host/m.h5?sig=x", "https://host/m.h5", "m.h5"),
        ("mlflow:models:/pump@live", "mlflow:models:/pump@live", "pump@live"),
    ],
)
def test_a_location_is_shown_without_its_secrets(path: str, shown: str, name: str) -> None:
    location = load_settings(None, [f"--model.path={path}"], {}).model.path
    assert isinstance(location, Location)
    assert (str(location), location.shown, location.name) == (path, shown, name)


@pytest.mark.parametrize("path", ["http://host/m.keras", "s3://bucket", "az://a/b", "mlflow:models:/pump", "mlflow://pump/1"])
def test_what_is_no_location_is_refused(path: str) -> None:
    with pytest.raises(ConfigurationError, match="expected the path of a Keras model file, or s3://BUCKET/KEY"):
        load_settings(None, [f"--model.path={path}"], {})


def test_secrets_of_the_store_are_kept_like_those_of_kafka(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from-a-file\n")
    store = f"{{token: {{file: {tmp_path / 'token'}}}, region: eu}}"
    settings = load_settings(None, [f"--model.store={store}"], {})
    assert settings.model_store() == {"token": "from-a-file", "region": "eu"}
    assert settings.secrets() == ["from-a-file"]
    assert "from-a-file" not in repr(settings)
    with pytest.raises(ConfigurationError, match="found a secret, which every user of this machine can see") as refused:
        load_settings(None, ["--model.store={secret_access_key: open}"], {})
    assert "open" not in str(refused.value)


def test_where_the_model_lies_decides_nothing_and_the_digest_of_its_code_does() -> None:
    plain = load_settings(None, [], {}).deciding()
    assert load_settings(None, ["--model.path=s3://a/b", "--model.store={region: eu}", "--model.cache=/tmp/c"], {}).deciding() == plain
    digest = "0f" * 32
    code = load_settings(None, [f"--model.code={{module: a, path: a.py, sha256: {digest}}}"], {})
    assert code.deciding() == {**plain, "model.code": digest}
