"""Sheets -> LaTeX tables for a paper: booktabs, groups of columns over a rule; no clock, no disk.

What a reader needs to read the table stands below it; fingerprints, versions and the like are comments in the source. Wide tables
span both columns of a page and shrink to its width, with the spread below the value; long ones break over pages.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby

from leaderboards.cells import ARROWS, MISSING
from leaderboards.formats import WIDE, below, context, footnotes, once, parts
from leaderboards.sheet import BEST, SECOND, TIE, Entry, Head, Line, Sheet

PREAMBLE = "% The preamble needs \\usepackage[T1]{fontenc} and \\usepackage{booktabs}"
#: Packages that only some tables need -> what shows that one does.
PACKAGES = {"adjustbox": "\\begin{adjustbox}", "longtable": "\\begin{longtable}"}
#: Rows of the longest table on one page.
LONG = 40
#: Notes that readers of the table need, by their beginning; the others become comments.
READ = (
    "Marks, by column", "Ties of ", "Marked by", "No method is shown", "± is ", "[low, high] is", "n: ", "Floor: ", "†", "‡",
    "**Bold**", "<ins>", "Marks hold", "All methods: ", "`original` is", "Undecidable: ",
)
CAUTIONS = (": favours ", "n differs between rows")
FOOTNOTE = re.compile(r"\[\d+\] ")
#: A path from the root, or from somebody's home: of it the last part is told.
FOLDERS = re.compile(r"(?<![\w.:/~-])(?:~/|/)(?:[\w.-]+/)+([\w.-]*)")
MARKS = {BEST: "\\textbf{{{}}}", SECOND: "\\underline{{{}}}", TIE: "{}\\,\\textdaggerdbl{{}}"}
DOUBT = "{}\\,\\textdagger{{}}"
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
SPANS = re.compile(r"`([^`]+)`|\*\*(.+?)\*\*|<ins>(.+?)</ins>")
#: A minus sign is no hyphen.
MINUS = re.compile(r"(?<![\w-])-(?=\d)")


def document(sheets: Sequence[Sheet]) -> str:
    """One ``table`` (``table*``, ``longtable``) a sheet, to be read into a document with ``\\input``."""
    seen: dict[str, int] = {}
    tables = []
    for sheet in sheets:
        seen[sheet.key] = seen.get(sheet.key, 0) + 1
        tables.append(_table(sheet, sheet.key if seen[sheet.key] == 1 else f"{sheet.key}-{seen[sheet.key]}"))
    more = [f" and \\usepackage{{{name}}}" for name, sign in PACKAGES.items() if any(sign in table for table in tables)]
    return "\n\n".join([f"{PREAMBLE}{''.join(more)}.", *tables]) + "\n"


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
    wide, long = len(sheet.heads) > WIDE, len(sheet.lines) > LONG
    labels = footnotes(sheet)[0]
    corner = [*([""] if grouped else []), escape(sheet.corner)]
    groups = once([line.group for line in sheet.lines])
    rows = []
    for k, line in enumerate(sheet.lines):
        rule = ["\\midrule"] if grouped and k and groups[k] else []
        first = [escape(groups[k])] if grouped else []
        rows += [*rule, _row([*first, escape(labels[k]), *_values(line, sheet.heads, wide)])]
    head = [*_spans(sheet.heads, len(corner)), _row([*corner, *(_heading(head) for head in sheet.heads)])]
    columns, caption = f"{{{'l' * len(corner)}{'r' * len(sheet.heads)}}}", f"\\caption{{{escape(sheet.title)}}}\\label{{tab:{label}}}"
    seen, kept = _notes(sheet)
    under = [*(["\\par\\smallskip\\raggedright\\footnotesize"] if seen else []), *(f"{prose(note)}\\par" for note in seen)]
    if long:
        size = "\\scriptsize" if wide else "\\small"
        made = [
            f"{{{size}", f"\\begin{{longtable}}{columns}", f"{caption} \\\\", "\\toprule", *head, "\\midrule", "\\endfirsthead",
            "\\toprule", *head, "\\midrule", "\\endhead", "\\bottomrule", "\\endfoot", *rows, "\\end{longtable}", *under, "}",
        ]  # fmt: skip
    else:
        table = "table*" if wide else "table"
        fit = ["\\begin{adjustbox}{max width=\\textwidth}"] if wide else []
        made = [
            f"\\begin{{{table}}}", "\\centering", *(["\\small"] if wide else []), caption, *fit, f"\\begin{{tabular}}{columns}",
            "\\toprule", *head, "\\midrule", *rows, "\\bottomrule", "\\end{tabular}", *(["\\end{adjustbox}"] if fit else []),
            *under, f"\\end{{{table}}}",
        ]  # fmt: skip
    return "\n".join([*made, *(f"% {' '.join(note.split())}" for note in kept)])


def _notes(sheet: Sheet) -> tuple[list[str], list[str]]:
    """What is printed below the table, and what stays in its source; folders of this machine are in neither."""
    last = [FOLDERS.sub(r"\1", note) for note in below(sheet) if note]
    seen = [note for note in last if note.startswith(READ) or FOOTNOTE.match(note) or any(words in note for words in CAUTIONS)]
    rest = [FOLDERS.sub(r"\1", context(sheet)), *(note for note in last if note not in seen)]
    return [*(FOLDERS.sub(r"\1", note) for note in sheet.above), *seen], [note for note in rest if note]


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


def _values(line: Line, heads: Sequence[Head], wide: bool) -> list[str]:
    return [_entry(entry, head, wide) for entry, head in zip(line.entries, heads, strict=True)]


def _entry(entry: Entry, head: Head, wide: bool) -> str:
    """The value with its spread, which stands in a second line where the table is wide."""
    value, rest = (escape(text) for text in parts(entry, head))
    doubtful = bool(entry.cell and entry.cell.doubt)
    if wide and rest:
        shown = (DOUBT if doubtful else MARKS.get(entry.mark, "{}")).format(value)
        return f"\\shortstack[r]{{{shown}\\\\{{\\tiny {rest}}}}}"
    if doubtful:
        return DOUBT.format(f"{value} {rest}".strip())
    return f"{MARKS.get(entry.mark, '{}').format(value)} {rest}".strip()
