"""Making artifacts. Nothing that runs one imports this."""

from ranvier.export.exporter import ExportRequest, export, export_to_store

__all__ = ["ExportRequest", "export", "export_to_store"]
