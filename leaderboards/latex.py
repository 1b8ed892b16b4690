"""Sheets -> LaTeX tables for a paper: booktabs, groups of columns over a rule, notes below; no clock, no disk."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby

from leaderboards.cells import ARROWS, MISSING
from leaderboards.formats import below, context, footnotes, once, parts
from leaderboards.sheet import BEST, SECOND, TIE, Entry, Head, Line, Sheet

PREAMBLE = "% The preamble needs \\usepackage[T1]{fontenc} and \\usepackage{booktabs}"
MARKS = {BEST: "\\textbf{{{}}}", SECOND: "\\underline{{{}}}", TIE: "{}\\,\\textdaggerdbl{{}}"}
DOUBT = "{{\\color{{gray}}{}}}\\,\\textdagger{{}}"
#: What stands for a character that LaTeX gives a meaning to, or that its usual fonts lack.
CHARACTERS = {
    "\\": "\\textbackslash{}", "{": "\\{", "}": "\\}", "#": "\\#", "$": "\\$", "%": "\\%", "&": "\\&", "_": "\\_",
    "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "\\textless{}", ">": "\\textgreater{}", "|": "\\textbar{}",
    '"': "\\textquotedbl{}", "`": "\\textasciigrave{}", "\u200b": "{}", "\N{NO-BREAK SPACE}": "~", MISSING: "--", "\u2014": "---",
    "\u2212": "\\textminus{}", "†": "\\textdagger{}", "‡": "\\textdaggerdbl{}", "±": "$\\pm$", "·": "$\\cdot$",
    "\N{MULTIPLICATION SIGN}": "$\\times$", "≥": "$\\geq$", "≤": "$\\leq$", "≈": "$\\approx$", "≠": "$\\neq$",
    "∞": "$\\infty$", "↓": "$\\downarrow$", "↑": "$\\uparrow$", "→": "$\\rightarrow$", "←": "$\\leftarrow$",
    "Δ": "$\\Delta$", "\N{GREEK SMALL LETTER ALPHA}": "$\\alpha$", "β": "$\\beta$", "λ": "$\\lambda$", "μ": "$\\mu$",
    "\N{GREEK SMALL LETTER SIGMA}": "$\\sigma$", "²": "\\textsuperscript{2}", "³": "\\textsuperscript{3}",
}  # fmt: skip
#: Markdown in notes: code, bold, underlined.
SPANS = re.compile(r"`([^`]+)`|\*\*(.+?)\*\*|<u>(.+?)</u>")
#: A minus sign is no hyphen.
MINUS = re.compile(r"(?<![\w-])-(?=\d)")


def document(sheets: Sequence[Sheet]) -> str:
    """One ``table`` a sheet, to be read into a document with ``\\input``."""
    seen: dict[str, int] = {}
    tables = []
    for sheet in sheets:
        seen[sheet.key] = seen.get(sheet.key, 0) + 1
        tables.append(_table(sheet, sheet.key if seen[sheet.key] == 1 else f"{sheet.key}-{seen[sheet.key]}"))
    colour = " and \\usepackage{xcolor}" if any("\\color{" in table for table in tables) else ""
    return "\n\n".join([f"{PREAMBLE}{colour}.", *tables]) + "\n"


def escape(text: str) -> str:
    """Text that LaTeX prints as it is; line breaks become spaces."""
    words = MINUS.sub("\u2212", text).replace("\n", " ").replace("--", "-\u200b-")
    return "".join(CHARACTERS.get(character, character) for character in words)


def prose(text: str) -> str:
    """A note: `escape`, with markdown's code, bold and underlined words as LaTeX has them."""
    found, end = [], 0
    for span in SPANS.finditer(text):
        code, bold, underlined = span.groups()
        command = "texttt" if code else "textbf" if bold else "underline"
        found += [escape(text[end : span.start()]), f"\\{command}{{{escape(code or bold or underlined)}}}"]
        end = span.end()
    return "".join([*found, escape(text[end:])])


def _table(sheet: Sheet, label: str) -> str:
    grouped = any(line.group for line in sheet.lines)
    labels = footnotes(sheet)[0]
    corner = [*([""] if grouped else []), escape(sheet.corner)]
    heads = [*corner, *(_heading(head) for head in sheet.heads)]
    groups = once([line.group for line in sheet.lines])
    lines = []
    for k, line in enumerate(sheet.lines):
        rule = ["\\midrule"] if grouped and k and groups[k] else []
        first = [escape(groups[k])] if grouped else []
        lines += [*rule, _row([*first, escape(labels[k]), *_values(line, sheet.heads)])]
    notes = [*sheet.above, context(sheet), *below(sheet)]
    return "\n".join([
        "\\begin{table}", "\\centering", f"\\caption{{{escape(sheet.title)}}}", f"\\label{{tab:{label}}}",
        f"\\begin{{tabular}}{{{'l' * len(corner)}{'r' * len(sheet.heads)}}}", "\\toprule",
        *_spans(sheet.heads, len(corner)), _row(heads), "\\midrule", *lines, "\\bottomrule", "\\end{tabular}",
        *(["\\par\\smallskip\\raggedright\\footnotesize"] if any(notes) else []),
        *(f"{prose(note)}\\par" for note in notes if note), "\\end{table}",
    ])  # fmt: skip


def _spans(heads: Sequence[Head], before: int) -> list[str]:
    """The row of groups and the rules below it; nothing where no column has a group."""
    cells, rules, place = [""] * before, [], before
    for name, some in groupby(heads, key=lambda head: head.group):
        width = len(list(some))
        cells.append(f"\\multicolumn{{{width}}}{{c}}{{{escape(name)}}}" if name else " & ".join([""] * width))
        rules += [f"\\cmidrule(lr){{{place + 1}-{place + width}}}"] if name else []
        place += width
    return [_row(cells), " ".join(rules)] if rules else []


def _row(cells: Sequence[str]) -> str:
    """The cells of a row; one that begins with a bracket would be an option of the row above."""
    text = " & ".join(cells)
    return f"{'{}' if text.startswith('[') else ''}{text} \\\\"


def _heading(head: Head) -> str:
    unit = f" ({head.unit})" if head.unit else ""
    return escape(f"{head.label}{unit}{ARROWS.get(head.better, '')}")


def _values(line: Line, heads: Sequence[Head]) -> list[str]:
    return [_entry(entry, head) for entry, head in zip(line.entries, heads, strict=True)]


def _entry(entry: Entry, head: Head) -> str:
    value, rest = (escape(text) for text in parts(entry, head))
    if entry.cell and entry.cell.doubt:
        return DOUBT.format(f"{value} {rest}".strip())
    return f"{MARKS.get(entry.mark, '{}').format(value)} {rest}".strip()
