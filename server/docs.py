"""The API as one plain HTML page made from its OpenAPI: no script, nothing from elsewhere."""

from __future__ import annotations

import json
from html import escape
from typing import Any

_METHODS = ("get", "post", "delete", "put")


def docs_page(openapi: dict[str, Any]) -> str:
    """The page for ``openapi``."""
    sections = [
        _operation(method, path, operation)
        for path, operations in openapi["paths"].items()
        for method, operation in operations.items()
        if method in _METHODS
    ]
    title = escape(openapi["info"]["title"])
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title} API</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="stylesheet" href="/style.css"></head><body class="docs"><main>'
        f"<h1>{title} API</h1><p>{_text(openapi['info']['description'])} "
        '<a href="/openapi.json">OpenAPI</a> · <a href="/">page</a></p>'
        + "".join(sections)
        + "</main></body></html>"
    )


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    parts = [
        f"<section><h2><code>{method.upper()} {escape(path)}</code></h2>",
        f"<p><strong>{escape(operation.get('summary', ''))}.</strong> ",
        f"{_text(operation.get('description', ''))}</p>",
    ]
    if parameters := operation.get("parameters"):
        rows = "".join(_parameter(parameter) for parameter in parameters)
        parts.append(f"<table><tr><th>parameter</th><th>in</th><th></th></tr>{rows}</table>")
    if "requestBody" in operation:
        types = ", ".join(operation["requestBody"].get("content", {}))
        text = operation["requestBody"].get("description", "")
        parts.append(f"<p>Body: {_text(text)} ({escape(types)})</p>")
    rows = "".join(
        f"<tr><td>{escape(status)}</td><td>{_text(response.get('description', ''))}</td></tr>"
        for status, response in sorted(operation.get("responses", {}).items())
    )
    parts.append(f"<table><tr><th>status</th><th></th></tr>{rows}</table></section>")
    return "".join(parts)


def _parameter(parameter: dict[str, Any]) -> str:
    schema = parameter.get("schema", {})
    options = [option for option in schema.get("anyOf", [schema]) if option.get("type") != "null"]
    kinds = [
        " | ".join(map(json.dumps, option["enum"]))
        if "enum" in option
        else str(option.get("type", ""))
        for option in options
    ]
    text = parameter.get("description") or schema.get("description", "")
    return (
        f"<tr><td><code>{escape(parameter['name'])}</code></td><td>{escape(parameter['in'])}</td>"
        f"<td>{escape(', '.join(kinds))}. {_text(text)}</td></tr>"
    )


def _text(markdown: str) -> str:
    """Escaped text with `code` marked up."""
    pieces = escape(markdown).split("`")
    return "".join(
        f"<code>{piece}</code>" if index % 2 else piece for index, piece in enumerate(pieces)
    )
