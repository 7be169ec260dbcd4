"""The page that shows the API and tries it out: Swagger UI, from files of the package alone."""

from __future__ import annotations

from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ranvier.api.files import File, file_of, file_response

_STATIC = Path(__file__).parent / "static"
_SWAGGER = _STATIC / "swagger-ui"
_PAGE = ""

# No other name is served, so no name can lead outside.
_FILES = {
    _PAGE: (_STATIC / "index.html", "text/html; charset=utf-8"),
    "docs.js": (_STATIC / "docs.js", "text/javascript; charset=utf-8"),
    "swagger-ui-bundle.js": (_SWAGGER / "swagger-ui-bundle.js", "text/javascript; charset=utf-8"),
    "swagger-ui.css": (_SWAGGER / "swagger-ui.css", "text/css; charset=utf-8"),
    "favicon-32x32.png": (_SWAGGER / "favicon-32x32.png", "image/png"),
}
# Swagger UI sets styles from its script, and its pictures are data in the style sheet.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# The page names its files without a version: they are asked for again soon after an upgrade.
_CACHE = {True: "no-cache", False: "public, max-age=3600"}


FILE_TYPES = {name: content_type for name, (_, content_type) in _FILES.items()}
"""Content type of each file under `/docs/`, by name; the page has the empty name."""


class DocsRoutes:
    """Handlers of `/docs`. Files are read when first asked for."""

    def __init__(self) -> None:
        self._read: dict[str, File] = {}

    async def to_page(self, request: Request) -> Response:
        """GET `/docs`: to `/docs/`, relative, so that it holds behind a proxy that adds a prefix."""
        return Response(status_code=303, headers={"location": "docs/"})

    async def file(self, request: Request) -> Response:
        """GET `/docs/…`: the page that shows this document, and its files. The page has the empty name."""
        name = request.path_params["name"]
        if name not in _FILES:
            raise HTTPException(404)
        if name not in self._read:
            self._read[name] = _load(name)
        return file_response(request, self._read[name])


def _load(name: str) -> File:
    path, content_type = _FILES[name]
    file = file_of(path.read_bytes(), content_type, _CACHE[name == _PAGE])
    if name != _PAGE:
        return file
    return File(file.content, {**file.headers, "content-security-policy": _POLICY, "referrer-policy": "no-referrer"})
