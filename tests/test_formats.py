"""Sheets as markdown, LaTeX, CSV and JSON: golden texts, marks, escapes, full precision, and what may not get lost."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from bench.cli import _CALLS
from bench.errors import UsageError
from bench.parser import build_parser
from leaderboards import formats, latex
from leaderboards.sheet import BEST, SECOND, TIE, Entry, Head, Line, Sheet
from leaderboards.values import Cell

HEADS = (
    Head("KD", "", "lower", "", 2, "fidelity/kd"),
    Head("mIoU", "RSNA", "higher", "%", 1, "rsna/iou"),
    Head("delta", "RSNA", "higher", "pp", 1, "rsna/delta"),
    Head("p", "JSRT", "", "", 3, "jsrt/p"),
)
LINES = (
    Line(
        "original",
        (
            Entry(Cell(2.0, 0.123456789012345, "subsets", n=(38,))),
            Entry(Cell(89.94, ci=(88.92, 90.87), n=(38,)), mark=TIE), Entry(Cell(-0.04)), Entry(),
        ),
        group="A", original=True, who=("original", "1", ""),
    ),
    Line(
        "a_b|c",
        (
            Entry(Cell(1 / 3, 0.1, "seeds", n=(38,), seeds=3), mark=BEST),
            Entry(Cell(90.94, ci=(88.92, 90.87), n=(33, 38)), mark=BEST),
            Entry(text="failed"), Entry(Cell(0.5, doubt="a blind segmenter.")),
        ),
        group="A", notes=("segmentation, seed 0 failed: 100 % memory",), who=("a_b", "2", "abcd"),
    ),
    Line(
        "[x]", (Entry(Cell(1.5), mark=SECOND), Entry(Cell(math.nan)), Entry(Cell(-1.26, ci=(-2.0, -0.5))), Entry(Cell(0.5, math.inf))),
        group="B",
    ),
)  # fmt: skip
INNER = Sheet("table1-segmenters", "By <segmenter>", {"dataset": "rsna"}, HEADS[:1], (Line("a", (Entry(Cell(0.25)),)),))
SHEET = Sheet(
    "table1", "Table 1 · 50 % & more", {"dataset": "rsna", "data": "0b37", "direction": ""}, HEADS, LINES,
    above=("Other data: `--force score`.",), below=("n = 38 images.",), behind=(INNER,),
)  # fmt: skip

MARKDOWN = """\
## Table 1 · 50 % & more

dataset rsna · data 0b37

- Other data: `--force score`.

|    | Method     |            KD ↓ |      RSNA: mIoU (%) ↑ |   RSNA: delta (pp) ↑ |   JSRT: p |
|:---|:-----------|----------------:|----------------------:|---------------------:|----------:|
| A  | original   |     2.00 ± 0.12 |   89.9 ‡ [88.9, 90.9] |                  0.0 |         ~ |
|    | a_b\\|c [1] | **0.33** ± 0.10 | **90.9** [88.9, 90.9] |               failed |   0.500 † |
| B  | [x]        | <ins>1.50</ins> |                     ~ |    -1.3 [-2.0, -0.5] |     0.500 |

- [1] a_b|c: segmentation, seed 0 failed: 100 % memory.
- n = 38 images.
- **Bold**: the best of a column.
- <ins>Underlined</ins>: the second.
- ‡ not shown to differ from the best.
- †, not to be relied upon and not ranked: a blind segmenter.

<details><summary>By &lt;segmenter&gt;</summary>

dataset rsna

| Method   |   KD ↓ |
|:---------|-------:|
| a        |   0.25 |

</details>
""".replace("~", "\u2013")


def test_markdown() -> None:
    assert formats.write([SHEET], "md") == MARKDOWN
    assert formats.write([SHEET, INNER], "md") == MARKDOWN + "\n" + formats.write([INNER], "md")


def test_a_sheet_that_explains_its_marks_is_not_explained_again() -> None:
    told = ("Marks, by column: bold: best; underlined: second.", "‡: a tie.", "† doubtful: a blind segmenter.")
    own = Sheet("t", "T", {}, HEADS, LINES, below=told)
    text = formats.write([own], "md")
    assert "- **Bold**" not in text and "<ins>Und" not in text and "not shown to differ" not in text and "not to be relied" not in text
    bare = Sheet("t", "T", {}, HEADS[2:3], (Line("a", (Entry(Cell(1.0)),)),))
    assert formats.write([bare], "md").strip().endswith("|")


def test_lines_with_the_same_notes_share_a_footnote() -> None:
    lines = tuple(Line(name, (Entry(text="failed"),), notes=notes) for name, notes in (("a", ("x.",)), ("b", ("y",)), ("c", ("x.",))))
    labels, notes = formats.footnotes(Sheet("t", "T", {}, HEADS[:1], lines))
    assert labels == ["a [1]", "b [2]", "c [1]"] and notes == ["[1] a, c: x.", "[2] b: y."]


def test_frame() -> None:
    found = formats.frame(SHEET)
    assert list(found.columns) == [("", "KD"), ("RSNA", "mIoU"), ("RSNA", "delta"), ("JSRT", "p")]
    assert list(found.index) == [("A", "original"), ("A", "a_b|c"), ("B", "[x]")]
    assert found["", "KD"].tolist() == [2.0, 1 / 3, 1.5] and found["", "KD"].dtype == float
    assert found["RSNA"]["delta"].tolist() == [-0.04, "failed", -1.26]
    assert math.isnan(found.loc[("A", "original"), ("JSRT", "p")]) and math.isnan(found.loc[("B", "[x]"), ("RSNA", "mIoU")])
    twins = Sheet("t", "T", {}, (HEADS[0], HEADS[0]), (Line("a", (Entry(Cell(1.0)), Entry(Cell(2.0)))),))
    assert formats.frame(twins).to_numpy().tolist() == [[1.0, 2.0]]
    assert formats.frame(Sheet("t", "T", {}, (), ())).empty


def test_csv_goes_through_pandas_without_a_loss() -> None:
    text = formats.write([SHEET], "csv")
    found = pd.read_csv(io.StringIO(text), float_precision="round_trip", dtype={"n": str})
    assert len(found) == 3 * 4 + 1
    rows = found.set_index(["sheet", "line", "head"])
    kd = rows.loc[("table1", "original", "fidelity/kd")]
    assert (kd["std"], kd["std_over"], kd["n"], kd["seeds"], kd["better"]) == (0.123456789012345, "subsets", "38", 1, "lower")
    assert rows.loc[("table1", "a_b|c", "fidelity/kd"), ["value", "seeds"]].tolist() == [1 / 3, 3]
    iou = rows.loc[("table1", "a_b|c", "rsna/iou")]
    assert (iou["ci_low"], iou["ci_high"], iou["n"], iou["mark"], iou["group"]) == (88.92, 90.87, "33;38", BEST, "RSNA")
    lost = rows.loc[("table1", "a_b|c", "rsna/delta")]
    assert lost["text"] == "failed" and math.isnan(lost["value"])
    assert rows.loc[("table1", "a_b|c", "jsrt/p"), "doubt"] == "a blind segmenter."
    assert math.isnan(rows.loc[("table1", "[x]", "jsrt/p"), "std"]), "what is not finite is empty"
    assert rows.loc[("table1", "original", "jsrt/p")][["value", "text", "seeds"]].isna().all(), "missing, and told"
    assert rows.loc[("table1-segmenters", "a", "fidelity/kd"), "value"] == 0.25, "sheets behind others are there"
    assert set(found["in.data"].dropna()) == {"0b37"} and found["original"].sum() == 4


def test_rows_of_a_csv_say_their_sheet_and_method() -> None:
    twin = replace(SHEET, context={**SHEET.context, "fidelity of rsna": "extractor=cxr"}, behind=())
    rows = list(csv.DictReader(io.StringIO(formats.write([SHEET, twin], "csv"))))
    ids = {(row["sheet_id"], row["in.fidelity of rsna"]) for row in rows if row["sheet"] == "table1"}
    assert len({name for name, _ in ids}) == 2 == len(ids) and {words for _, words in ids} == {"", "extractor=cxr"}
    whose = {(row["line"], row["method"], row["method_version"], row["config_fingerprint"]) for row in rows}
    assert {("a_b|c", "a_b", "2", "abcd"), ("original", "original", "1", ""), ("[x]", "", "", "")} < whose


# -- wide and long tables -----------------------------------------------------------------------------------------------------

MANY = tuple(Head(f"h{k}", f"Set {k // 3}", "lower", "", 1, f"k{k}") for k in range(9))
ROW = tuple(Entry(Cell(float(k), ci=(k - 1.0, k + 1.0)), mark=BEST) for k in range(9))
NOTES = ("Data: /home/jane/x/set1.", "Marks, by column: bold: best.")
BROAD = Sheet("t", "T", {}, MANY, (Line("a", ROW), Line("b", ROW)), below=NOTES)


def test_a_wide_table_is_one_for_each_group_in_markdown() -> None:
    text = formats.write([BROAD], "md")
    heads = [line for line in text.splitlines() if "Method" in line]
    assert len(heads) == 3 and all(len(line.split("|")) == 6 for line in heads) and not any("Set" in line for line in heads)
    assert [line for line in text.splitlines() if line.startswith("**Set")] == ["**Set 0**", "**Set 1**", "**Set 2**"]
    assert text.count("| a ") == 3 and text.count("- Marks") == 1
    narrow = formats.write([replace(BROAD, heads=MANY[:6], lines=(Line("a", ROW[:6]),))], "md")
    assert narrow.count("Method") == 1 and "Set 1: h3" in narrow


def test_a_wide_latex_table_shrinks_with_spreads_in_a_second_line() -> None:
    text = formats.write([BROAD], "latex")
    assert r"\begin{table*}" in text and r"\begin{adjustbox}{max width=\textwidth}" in text and "adjustbox" in text.splitlines()[0]
    assert r"\shortstack[r]{\textbf{3.0}\\{\tiny [2.0, 4.0]}}" in text
    assert "% Data: set1." in text and "jane" not in text and r"bold: best.\par" in text


def test_a_long_latex_table_breaks_over_pages() -> None:
    text = formats.write([replace(BROAD, heads=MANY[:2], lines=tuple(Line(f"m{k}", ROW[:2]) for k in range(41)))], "latex")
    assert r"\begin{longtable}{lrr}" in text and r"\begin{table" not in text and "longtable" in text.splitlines()[0]
    assert text.index(r"\caption") < text.index(r"\toprule") < text.index(r"\endfirsthead") < text.index("m40 &")
    assert r"\begin{longtable}" not in formats.write([replace(BROAD, lines=(Line("a", ROW),) * 40)], "latex")


def test_what_decides_is_what_is_shown() -> None:
    subsets, seeds = Cell(1.0, 0.1, "subsets", ci=(0.7, 1.3)), Cell(1.0, 0.1, "seeds", ci=(0.7, 1.3), seeds=3)
    assert formats.parts(Entry(subsets), HEADS[0]) == ("1.00", "[0.70, 1.30]")
    assert formats.parts(Entry(seeds), HEADS[0]) == ("1.00", "± 0.10 [0.70, 1.30]")
    assert formats.parts(Entry(Cell(1.0, 0.1, "subsets")), HEADS[0]) == ("1.00", "± 0.10")


def _strict(text: str) -> object:
    return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def test_json_is_strict_and_whole() -> None:
    found = _strict(formats.write([SHEET], "json"))
    assert isinstance(found, dict)
    (sheet,) = found["sheets"]
    assert sheet["context"] == {"dataset": "rsna", "data": "0b37", "direction": ""}
    assert sheet["above"] == ["Other data: `--force score`."] and sheet["below"] == ["n = 38 images."]
    assert [head["key"] for head in sheet["heads"]] == [head.key for head in HEADS]
    first, second, third = (line["entries"] for line in sheet["lines"])
    assert first[0] == {
        "value": 2.0, "text": "", "std": 0.123456789012345, "std_over": "subsets", "ci": None, "n": [38], "seeds": 1,
        "mark": "", "doubt": "",
    }  # fmt: skip
    assert [sheet["lines"][1][name] for name in ("method", "method_version", "config_fingerprint")] == ["a_b", "2", "abcd"]
    assert second[1]["ci"] == [88.92, 90.87] and second[1]["mark"] == BEST and second[2]["text"] == "failed"
    assert third[1]["value"] is None and third[3]["std"] is None
    assert sheet["lines"][1]["notes"] == list(LINES[1].notes) and sheet["lines"][0]["original"] is True
    assert sheet["behind"][0]["lines"][0]["entries"][0]["value"] == 0.25


# -- LaTeX -------------------------------------------------------------------------------------------------------------------


def test_latex() -> None:
    text = formats.write([SHEET], "latex")
    rows = text.split("\\toprule\n")[1].split("\n\\bottomrule")[0].splitlines()
    assert rows == [
        r" &  &  & \multicolumn{2}{c}{RSNA} & \multicolumn{1}{c}{JSRT} \\",
        r"\cmidrule(lr){4-5} \cmidrule(lr){6-6}",
        r" & Method & KD $\downarrow$ & mIoU (\%) $\uparrow$ & delta (pp) $\uparrow$ & p \\",
        r"\midrule",
        r"A & original & 2.00 $\pm$ 0.12 & 89.9\,\textdaggerdbl{} [88.9, 90.9] & 0.0 & -- \\",
        r" & a\_b\textbar{}c [1] & \textbf{0.33} $\pm$ 0.10 & \textbf{90.9} [88.9, 90.9] & failed & "
        r"0.500\,\textdagger{} \\",
        r"\midrule",
        r"B & [x] & \underline{1.50} & -- & \textminus{}1.3 [\textminus{}2.0, \textminus{}0.5] & 0.500 \\",
    ]
    assert r"\begin{tabular}{llrrrr}" in text and r"\caption{Table 1 $\cdot$ 50 \% \& more}" in text
    assert r"Other data: \texttt{-{}-force score}.\par" in text and "xcolor" not in text
    assert r"\label{tab:table1}" in text and r"\label{tab:table1-segmenters}" in text
    assert r"\textbf{Bold}: the best of a column.\par" in text and r"\underline{Underlined}: the second.\par" in text
    assert "\n% n = 38 images.\n" in text and "n = 38 images.\\par" not in text, "notes on what is behind it stay in the source"


def test_latex_escapes_every_special_character() -> None:
    expected = {
        "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "#": r"\#", "$": r"\$", "%": r"\%", "&": r"\&", "_": r"\_",
        "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
        '"': r"\textquotedbl{}", "`": r"\textasciigrave{}",
    }  # fmt: skip
    for character, words in expected.items():
        assert latex.escape(f"a{character}b") == f"a{words}b"
    assert latex.escape(r"\{}") == r"\textbackslash{}\{\}", "what an escape brings is not escaped again"
    assert latex.escape("-1 to [-2, 3], a-1, 2-3\n--x") == r"\textminus{}1 to [\textminus{}2, 3], a-1, 2-3 -{}-x"
    assert latex.prose("**a_b** and `c&d` <ins>e%</ins> f*g") == r"\textbf{a\_b} and \texttt{c\&d} \underline{e\%} f*g"


def test_a_row_that_begins_with_a_bracket_is_no_option_of_the_row_above() -> None:
    bare = Sheet("t", "T", {}, HEADS[:1], (Line("a", (Entry(Cell(1.0)),)), Line("[x]", (Entry(Cell(2.0)),))))
    assert "1.00 \\\\\n{}[x] & 2.00 \\\\" in formats.write([bare], "latex")


def test_labels_of_latex_tables_are_unique() -> None:
    labels = re.findall(r"\\label\{(.+?)\}", formats.write([SHEET, SHEET], "latex"))
    assert labels == ["tab:table1", "tab:table1-segmenters", "tab:table1-2", "tab:table1-segmenters-2"]


def test_latex_compiles(tmp_path: Path) -> None:
    """With pdflatex where there is one; else braces, environments and the number of cells of each row are checked."""
    nasty = Line("{[\\]}%&_#$^~<>|\"`'\u2265\u03c3\u00d7½", (Entry(text="50 %"), *(Entry(Cell(1.0)),) * 3), notes=("a\\b{c}_%",))
    text = formats.write([Sheet("t", "T & {x} 100 %", {"a_b": "c#d"}, HEADS, (*LINES, nasty), ("`x_y`",))], "latex")
    if shutil.which("pdflatex"):
        packages = r"\usepackage[T1]{fontenc}\usepackage{booktabs}\usepackage{xcolor}"
        whole = rf"\documentclass{{article}}{packages}\begin{{document}}{text}\end{{document}}"
        (tmp_path / "a.tex").write_text(whole, encoding="utf-8")
        run = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "a.tex"]
        done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:]
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    unescaped = re.sub(r"\\[{}\\%&_#$]", "", body.replace("\\\\\n", "\n"))
    depth = 0
    for character in unescaped:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0 and "%" not in unescaped and "#" not in unescaped and unescaped.count("$") % 2 == 0
    assert re.findall(r"\\begin\{(\w+)\}", body) == ["table", "tabular"]
    assert re.findall(r"\\end\{(\w+)\}", body) == ["tabular", "table"]
    rows = [line for line in body.split("\\midrule\n", 1)[1].split("\\bottomrule")[0].splitlines() if line.endswith("\\\\")]
    assert len(rows) == 4 and all(len(re.findall(r"(?<!\\)&", row)) == 5 for row in rows)


def test_formats_and_the_command_line_know_the_same_ones() -> None:
    (verbs,) = [action for action in build_parser(_CALLS)._actions if isinstance(action.choices, dict)]
    assert isinstance(verbs.choices, dict)
    (choices,) = [action.choices for action in verbs.choices["leaderboard"]._actions if action.dest == "format"]
    with pytest.raises(UsageError, match=r"unknown format 'mdx'\. Did you mean 'md'\?") as refused:
        formats.write([SHEET], "mdx")
    assert choices is not None and str(refused.value).endswith(f"Available: {', '.join(sorted(choices))}.")
