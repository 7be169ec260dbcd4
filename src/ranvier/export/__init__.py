"""Making artifacts. Nothing that runs one imports this."""

from ranvier.export.exporter import export, export_to_store, open_checkpoint

__all__ = ["export", "export_to_store", "open_checkpoint"]
