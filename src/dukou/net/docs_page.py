"""What `/docs` shows: the OpenAPI document for people, with a form to try each call. Pure.

The page is a plain list without JavaScript; the script only adds the forms' buttons.
"""

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

import orjson

from dukou.net.html import page, table_of

SCRIPT = """
for (const form of document.querySelectorAll("form")) {
  const answer = form.querySelector("output"), button = document.createElement("button");
  button.textContent = "Send";
  form.insertBefore(button, answer);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    try {
      const place = form.querySelector("input"), body = form.querySelector("textarea");
      const path = place ? form.dataset.path.replace(/{[^}]*}/, encodeURIComponent(place.value)) : form.dataset.path;
      const began = performance.now();
      const said = await fetch(path, {
        method: form.dataset.method,
        body: body ? body.value : undefined,
        headers: body ? {"content-type": "application/json"} : {},
      });
      const text = await said.text(), ms = Math.round(performance.now() - began);
      answer.textContent = said.status + " " + said.statusText + ", " + ms + " ms\\n" + text.slice(0, 20000);
    } catch (error) {
      answer.textContent = String(error);
    }
    button.disabled = false;
  });
}
"""


def as_html(document: Mapping[str, Any]) -> bytes:
    """The page of an OpenAPI document that `dukou.net.openapi` made."""
    info = document["info"]
    parts = [
        f"<h1>{escape(info['title'])} <small>{escape(info['version'])}</small></h1>\n"
        f'<p>{escape(info["description"])} <span class="dim">For programs: <a href="/openapi.json">OpenAPI</a>.'
        "</span></p>\n"
    ]
    for tag in document["tags"]:
        operations = list(_operations(document, tag["name"]))
        if operations:
            parts.append(f"<h2>{escape(tag['name'])}</h2>\n{''.join(operations)}")
    return page("dukou: the interface", "".join(parts), SCRIPT)


def _operations(document: Mapping[str, Any], tag: str) -> Iterator[str]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if tag in operation["tags"]:
                yield _section(method.upper(), path, operation)


def _section(method: str, path: str, operation: Mapping[str, Any]) -> str:
    answers = [
        (status, escape(answer["description"]), escape(", ".join(answer.get("content", {}))))
        for status, answer in operation["responses"].items()
    ]
    return (
        f'<details><summary><code class="whole">{method} {escape(path)}</code> '
        f'<span class="dim">{escape(operation["summary"])}</span></summary>\n'
        + _form(method, path, operation)
        + _schemas(operation)
        + table_of(("Status", "Meaning", "Content"), answers)
        + "</details>\n"
    )


def _form(method: str, path: str, operation: Mapping[str, Any]) -> str:
    parameters = operation.get("parameters", ())
    fields = "".join(
        f'<label>{escape(one["name"])} <input value="{escape(str(one["schema"]["enum"][-1]))}"></label>\n'
        for one in parameters
    )
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if content is not None:
        example = orjson.dumps(content.get("example", {})).decode()
        fields += f'<textarea rows="4" spellcheck="false" aria-label="body">{escape(example)}</textarea>\n'
    return f'<form data-method="{method}" data-path="{escape(path)}">{fields}<output></output></form>\n'


def _schemas(operation: Mapping[str, Any]) -> str:
    body = operation.get("requestBody", {}).get("content", {}).get("application/json")
    answer = operation["responses"]["200"].get("content", {}).get("application/json")
    return "".join(
        f"<details><summary>{title}</summary><pre>{escape(_indented(content['schema']))}</pre></details>\n"
        for title, content in (("Request schema", body), ("Answer schema", answer))
        if content is not None and "schema" in content
    )


def _indented(schema: Any) -> str:
    return orjson.dumps(schema, option=orjson.OPT_INDENT_2).decode()
