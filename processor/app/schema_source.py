"""The source of schemas of the running service: its registry, and the place beside the checkpoints where they are kept."""

from processor.app.schema_fit import registry_of
from processor.checkpoint.directory import Directory
from processor.metrics import Metrics
from processor.registry.schema_folder import SchemaFolder
from processor.registry.schema_records import SchemaRecords
from processor.registry.schemas import Schemas, SchemaStore
from processor.settings import Settings


class KeptSchemas:
    """records: those that the checkpoint topic keeps; None where a folder does. source: None where records name no schema."""

    def __init__(self, settings: Settings, folder: Directory | None, metrics: Metrics) -> None:
        self.source: Schemas | None = None
        self.records: SchemaRecords | None = None
        client = registry_of(settings)
        if client is None:
            return
        store: SchemaStore
        if folder is None:
            store = self.records = SchemaRecords(settings.checkpoint_topic or "")
        else:
            store = SchemaFolder(folder.root)
        self.source = Schemas(client, store, metrics, fail=settings.on_unknown_schema == "fail")

    def close(self) -> None:
        if self.source is not None:
            self.source.close()
