"""The OpenAPI document and the page of parameters, both made from the wire types."""

from ranvier.api.openapi.document import OpenApiRoutes, build_document, default_document
from ranvier.api.openapi.page import api_markdown
from ranvier.api.openapi.schemas import request_fields

__all__ = ["OpenApiRoutes", "api_markdown", "build_document", "default_document", "request_fields"]
