"""The leaderboards as one web page that needs nothing else: tables to sort and filter, figures, and a browser of cases.

Everything is inside the document (styles, scripts, images as data), and its content security policy lets nothing in from outside.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from string import Template
from typing import Any

from leaderboards.cases import KEPT, CaseSet
from leaderboards.page import content
from leaderboards.page.images import STEPS, Figure, Store, figure
from leaderboards.sheet import Sheet

#: Bytes of a page, so that it can be sent by mail and opens at once.
LIMIT = 5_000_000
#: Share of them that all figures together may take, each as much of it as its file is of all files.
FIGURES = 0.35
#: One of so many images is encoded to tell whether a step can fit, ...
STRIDE = 8
#: ... and how far off that may be.
SLACK = 1.2


def page(
    sheets: Sequence[Sheet], case_sets: Sequence[CaseSet], figures: Mapping[str, bytes], general: str, source: str
) -> str:
    """One HTML document.

    Images keep every pixel value as long as the page stays below `LIMIT`; else they are compressed or made smaller as little as
    is needed, and the page says how. A page with so many cases that even the smallest images do not fit is larger.

    Args:
        sheets: tables, in the order to show them.
        case_sets: cases to browse. Restricted ones are left out, which the page says.
        figures: caption -> PNG, WebP or JPEG file, in the order to show them. The caller keeps images of restricted datasets out.
        general: the complete leaderboard as markdown, shown as it is; empty for none.
        source: the command that made the page; empty where unknown.

    Raises:
        DataError: a figure is no image, or the images of a case do not belong together.
    """
    shown = [some for some in case_sets if not some.restricted and some.cases]
    heavy = max(1, sum(map(len, figures.values())))
    drawn = {caption: figure(caption, data, int(LIMIT * FIGURES * len(data) / heavy)) for caption, data in figures.items()}
    fixed = {
        "sheets": [content.sheet(one) for one in sheets],
        "figures": [{"caption": caption, **one._asdict()} for caption, one in drawn.items()],
        "withheld": [some.title for some in case_sets if some.restricted],
        "kept": [some.title for some in shown if some.context.get("policy") == KEPT],
    }
    budget = LIMIT - len(_document({**fixed, "sets": [], "images": []}, general, source, "").encode())
    for step in STEPS:
        last = step == STEPS[-1]
        probe = Store(step, STRIDE)
        _sets(shown, probe)
        if len(probe.uris) >= STRIDE and probe.size > SLACK * budget and not last:
            continue
        store = Store(step)
        data = {**fixed, "sets": _sets(shown, store), "images": store.uris}
        found = _document(data, general, source, _storage(store, drawn))
        if len(found.encode()) <= LIMIT or last:
            break
    return found


def _sets(shown: Sequence[CaseSet], store: Store) -> list[dict[str, Any]]:
    return [content.case_set(some, store) for some in shown]


def _storage(store: Store, figures: Mapping[str, Figure]) -> str:
    """How the images differ from the files they were made from."""
    words = []
    if store.uris and store.largest > store.step.side:
        words.append(f"Images of cases are reduced from {store.largest} to {store.step.side} px (longer side).")
    if store.uris and store.step.quality:
        words.append(
            f"They are compressed with loss (WebP, quality {store.step.quality}): in the image it changed most, pixels differ by "
            f"{store.deviation:.1f} of 255 grey levels on average. Outlines of lungs are exact at that size."
        )
    elif store.uris:
        words.append("Images of cases have every pixel value of the size shown.")
    changed = sum(one.changed for one in figures.values())
    if changed:
        words.append(f"{changed} of {len(figures)} figures are reduced or compressed for this page.")
    return " ".join(words)


def _document(data: Mapping[str, Any], general: str, source: str, storage: str) -> str:
    """The template with everything in it; only the data of this call is escaped, the files are ours."""
    style, script = _file("page.css"), _file("page.js") + _file("cases.js")
    policy = "; ".join((
        "default-src 'none'", "img-src data:", f"style-src '{_hash(style)}'", f"script-src '{_hash(script)}'",
        "base-uri 'none'", "form-action 'none'",
    ))  # fmt: skip
    return Template(_file("template.html")).substitute(
        policy=policy, style=style, script=script, data=_json(data),
        made=f"<dt>Made by</dt><dd><code>{html.escape(source)}</code></dd>" if source else "",
        storage=html.escape(storage), general=html.escape(general),
        has_general="" if general else " hidden",
    )  # fmt: skip


def _file(name: str) -> str:
    return resources.files(__name__).joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _json(data: object) -> str:
    """JSON that cannot end the element it stands in, whatever the labels."""
    words = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return words.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
