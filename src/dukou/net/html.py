"""Pages for people: complete in themselves, nothing is fetched from elsewhere. Pure."""

import base64
import hashlib
from collections.abc import Sequence
from html import escape

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2327; --dim: #5c6670; --line: #d9dee3; --paper: #fff; --code: #f4f6f8;
  --good: #1a7f45; --wait: #9a6700; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8eb; --dim: #9aa5b0; --line: #343b42; --paper: #14181c;
  --code: #1d2329; --good: #5fc98a; --wait: #e0b050; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 52rem; padding: 2.5rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.6 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0; } h1 small { color: var(--dim); font-weight: 400; font-size: 1rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; padding-top: 1.25rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; } p { margin: .25rem 0 1rem; } .dim { color: var(--dim); }
code, pre { font: .875rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
pre { background: var(--code); border-radius: 6px; padding: .75rem 1rem; margin: 0; overflow-x: auto; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .35rem 1rem .35rem 0; border-bottom: 1px solid var(--line); }
th { color: var(--dim); font-weight: 500; } a { color: inherit; }
.whole { white-space: nowrap; }
details { margin: .35rem 0; } details details { margin-left: 1rem; } summary { cursor: pointer; }
form { margin: .5rem 0; } textarea { width: 100%; font: .875rem/1.5 ui-monospace, monospace; }
output { display: block; white-space: pre-wrap; overflow-wrap: anywhere; font: .875rem/1.5 ui-monospace, monospace; }
.AVAILABLE { color: var(--good); } .START, .LOADING, .UNLOADING { color: var(--wait); } .END { color: var(--bad); }
"""


def page(title: str, body: str, script: str = "") -> bytes:
    """A whole page of `body`, which is HTML already."""
    end = f"<script>{script}</script>" if script else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n{body}{end}</body>\n</html>\n"
    ).encode()


def policy(script: str = "") -> bytes:
    """The Content-Security-Policy of a page: its own style and script, calls of its own server, and nothing else."""
    rules = ["default-src 'none'", f"style-src {_digest(_STYLE)}", "connect-src 'self'", "base-uri 'none'"]
    rules.append("form-action 'none'; frame-ancestors 'none'")
    if script:
        rules.append(f"script-src {_digest(script)}")
    return "; ".join(rules).encode("ascii")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def table_of(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are HTML already; a column with nothing in it is left out."""
    shown = [index for index in range(len(titles)) if any(row[index] for row in rows)]
    head = "".join(f"<th>{titles[index]}</th>" for index in shown)
    body = "".join("<tr>" + "".join(f"<td>{row[index]}</td>" for index in shown) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>\n'
