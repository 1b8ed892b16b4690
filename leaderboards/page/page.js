"use strict";

/** Nodes are built and never parsed: labels of records can hold any characters. */
const make = (tag, how = {}, ...inside) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(how)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") node.className = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...inside.filter((part) => part !== null && part !== undefined && part !== ""));
  return node;
};
const hidden = (words) => make("span", { class: "sr" }, words);
/** The little markdown that notes have: `code`, **bold**, <ins>underlined</ins>. */
const prose = (words) => words.split(/(`[^`]+`|\*\*[^*]+\*\*|<ins>[^<]+<\/ins>)/).map((part, i) => {
  if (i % 2 === 0) return part;
  const [tag, ends] = part[0] === "`" ? ["code", 1] : part[0] === "*" ? ["strong", 2] : ["ins", 5];
  return make(tag, {}, part.slice(ends, -ends - (tag === "ins" ? 1 : 0)));
});
const bullets = (lines) => make("ul", { class: "notes" }, ...lines.map((line) => make("li", {}, ...prose(line))));
const facts = (pairs) => pairs.flatMap(([name, value]) => [make("dt", {}, name.replaceAll("_", " ")), make("dd", {}, value)]);
const check = (label, checked, change, more = {}) => {
  const box = make("input", { type: "checkbox", onchange: () => change(box.checked), ...more });
  box.checked = checked;
  return make("label", { class: "check" }, box, make("span", {}, ...[].concat(label)));
};
let serial = 0;
const fresh = (name) => `${name}-${(serial += 1)}`;
const field = (label, control) => {
  control.id = fresh("control");
  return make("div", { class: "field" }, make("label", { for: control.id }, label), control);
};

/** One sheet as a table to sort, to filter, and to choose the columns of. */
class Table {
  constructor(sheet) {
    this.sheet = sheet;
    this.id = fresh("sheet");
    this.order = { column: null, way: 0 };
    this.words = "";
    this.shown = sheet.heads.map(() => true);
    this.head = make("thead");
    this.body = make("tbody");
    this.status = make("p", { class: "sr", role: "status" });
    this.table = make("table", { class: "no-rests", "aria-labelledby": this.id }, this.head, this.body);
    this.drawHead();
    this.drawBody();
  }

  node(level) {
    const { sheet } = this;
    const context = sheet.context.length
      ? make("details", {}, make("summary", {}, "What all rows share"), make("dl", { class: "facts" }, ...facts(sheet.context)))
      : null;
    const meanings = sheet.heads.filter((head) => head.detail);
    const columns = meanings.length
      ? make("details", {}, make("summary", {}, "What the columns mean"), make("dl", { class: "facts" },
        ...facts(meanings.map((head) => [[head.group, head.label].filter(Boolean).join(": "), head.detail]))))
      : null;
    const inside = make("div", {}, ...sheet.behind.map((other) => new Table(other).node(level + 1)));
    return make("section", { class: "sheet", "aria-labelledby": this.id },
      make(`h${level}`, { id: this.id }, sheet.title),
      ...sheet.above.map((words) => make("p", { class: "notice" }, ...prose(words))),
      this.tools(),
      make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `${sheet.title}, scrolls sideways` }, this.table),
      this.status, bullets(sheet.below), context, columns,
      sheet.behind.length ? make("details", { class: "behind" }, make("summary", {}, "Tables behind this one"), inside) : null);
  }

  name(i) {
    const { group, label } = this.sheet.heads[i];
    return group ? `${group} ${label}` : label;
  }

  tools() {
    const search = make("input", { type: "search", autocomplete: "off", spellcheck: "false", oninput: () => {
      this.words = search.value;
      this.drawBody();
    } });
    const toggle = (name) => (on) => this.table.classList.toggle(name, !on);
    const has = (test) => this.sheet.lines.some((line) => line.entries.some(test));
    return make("div", { class: "tools" },
      field("Show rows with", search),
      has((entry) => entry.std || entry.ci) ? check("Spread and intervals", true, toggle("no-spread")) : null,
      has((entry) => entry.n) ? check("n and seeds of each value", false, toggle("no-rests")) : null,
      this.sheet.heads.length > 1 ? this.chooser() : null);
  }

  chooser() {
    const groups = [...new Set(this.sheet.heads.map((head) => head.group))];
    const all = (group) => this.sheet.heads.map((head, i) => [head, i]).filter(([head]) => head.group === group);
    const sets = groups.map((group) => {
      const boxes = all(group).map(([head, i]) => check(head.label, true, (on) => { this.shown[i] = on; update(); }));
      const inputs = boxes.map((label) => label.firstChild);
      const whole = check("all", true, (on) => {
        all(group).forEach(([, i], k) => { this.shown[i] = on; inputs[k].checked = on; });
        update();
      }, { "aria-label": `All columns${group ? ` of ${group}` : ""}` });
      const update = () => {
        const on = inputs.filter((box) => box.checked).length;
        whole.firstChild.checked = on === inputs.length;
        whole.firstChild.indeterminate = on > 0 && on < inputs.length;
        if (this.order.column !== null && !this.shown[this.order.column]) this.order = { column: null, way: 0 };  // nobody sees why
        this.drawHead();
        this.drawBody();
      };
      return make("fieldset", {}, make("legend", {}, group || "Columns"), inputs.length > 1 ? whole : null, ...boxes);
    });
    return make("details", { class: "choose" }, make("summary", {}, "Choose columns"), ...sets);
  }

  drawHead() {
    const { heads, corner } = this.sheet;
    const visible = heads.map((head, i) => [head, i]).filter(([, i]) => this.shown[i]);
    const grouped = heads.some((head) => head.group);
    const stub = this.heading(corner, null, { class: "stub", rowspan: grouped ? 2 : 1 });
    const cells = visible.map(([head, i]) => this.heading(head, i, {}));
    if (!grouped) return this.head.replaceChildren(make("tr", {}, stub, ...cells));
    const spans = [];
    for (const [head] of visible) {
      if (spans.length && spans.at(-1).group === head.group) spans.at(-1).count += 1;
      else spans.push({ group: head.group, count: 1 });
    }
    const top = spans.map(({ group, count }) => (group
      ? make("th", { scope: "colgroup", colspan: count }, group) : make("td", { colspan: count })));
    return this.head.replaceChildren(make("tr", {}, stub, ...top), make("tr", {}, ...cells));
  }

  heading(head, column, how) {
    const named = column !== null;
    const { better, arrow } = named ? head : {};
    const mark = make("span", { class: "order", "aria-hidden": "true" });
    const button = make("button", { type: "button", title: named ? head.detail : null, onclick: () => this.sort(column) },
      named ? mark : "", named ? head.label : head, named && head.unit ? ` (${head.unit})` : "",
      arrow ? make("span", { "aria-hidden": "true", class: "direction" }, `\u00a0${arrow}`) : "",
      better ? hidden(`, ${better} is better`) : "", named ? "" : mark);
    const cell = make("th", { scope: "col", "aria-sort": "none", "data-column": named ? column : "label", ...how }, button);
    this.tell(cell, mark, column);
    return cell;
  }

  tell(cell, mark, column) {
    const way = this.order.way && this.order.column === column ? this.order.way : 0;
    cell.setAttribute("aria-sort", { 0: "none", 1: "ascending", "-1": "descending" }[way]);
    mark.textContent = { 0: "", 1: "\u25b4", "-1": "\u25be" }[way];
  }

  /** First the better end on top, then the other one, then the table's own order. */
  sort(column) {
    const first = column !== null && this.sheet.heads[column].better === "higher" ? -1 : 1;
    if (this.order.column !== column || !this.order.way) this.order = { column, way: first };
    else if (this.order.way === first) this.order.way = -first;
    else this.order = { column: null, way: 0 };
    for (const cell of this.head.querySelectorAll("th[data-column]")) {
      const own = cell.dataset.column;
      this.tell(cell, cell.querySelector(".order"), own === "label" ? null : Number(own));
    }
    this.drawBody();
  }

  /** Rows of a group stay together: they are ranked among themselves. */
  ordered(lines) {
    if (!this.order.way) return lines;
    const groups = [...new Set(lines.map((line) => line.group))];
    return groups.flatMap((group) => this.sorted(lines.filter((line) => line.group === group)));
  }

  /** Sure values, doubtful ones, words, nothing: only within one of these the direction counts. */
  sorted(lines) {
    const { column, way } = this.order;
    if (column === null) return [...lines].sort((a, b) => way * a.label.localeCompare(b.label, "en", { numeric: true }));
    const rank = (entry) => (entry.value === undefined ? (entry.text ? 2 : 3) : entry.doubt ? 1 : 0);
    return [...lines].sort((a, b) => {
      const [x, y] = [a.entries[column], b.entries[column]];
      if (rank(x) !== rank(y)) return rank(x) - rank(y);
      return rank(x) < 2 ? way * (x.value - y.value) : way * (x.text ?? "").localeCompare(y.text ?? "", "en", { numeric: true });
    });
  }

  matches(line) {
    const visible = line.entries.filter((_, i) => this.shown[i]).map((entry) => (entry.value === undefined ? entry.text ?? "" : ""));
    const text = [line.label, line.group, ...visible].join(" ").toLowerCase();
    return this.words.toLowerCase().split(/\s+/).every((word) => text.includes(word));
  }

  drawBody() {
    const lines = this.ordered(this.sheet.lines.filter((line) => this.matches(line)));
    const width = 1 + this.shown.filter(Boolean).length;
    const rows = [];
    lines.forEach((line, i) => {
      if (line.group && line.group !== lines[i - 1]?.group) {
        rows.push(make("tr", { class: "band" }, make("th", { class: "stub", scope: "rowgroup" }, make("span", {}, line.group)),
          width > 1 ? make("th", { colspan: width - 1, "aria-hidden": "true" }) : null));
      }
      rows.push(this.row(line));
    });
    if (!lines.length) rows.push(make("tr", {}, make("td", { colspan: width, class: "words" }, "No row has these words.")));
    this.body.replaceChildren(...rows);
    const { column, way } = this.order;
    const by = way ? `, sorted by ${column === null ? this.sheet.corner : this.name(column)}, ${way > 0 ? "ascending" : "descending"}` : "";
    this.status.textContent = `${lines.length} of ${this.sheet.lines.length} rows${by}.`;
  }

  row(line) {
    const cells = line.entries.map((entry, i) => [entry, i]).filter(([, i]) => this.shown[i]).map(([entry]) => this.cell(entry));
    return make("tr", { class: line.original ? "original" : null }, make("th", { class: "stub", scope: "row" }, make("span", {}, line.label)), ...cells);
  }

  cell(entry) {
    if (entry.text === undefined) return make("td", { class: "missing" }, make("span", { "aria-hidden": "true" }, "\u2013"), hidden("no value"));
    const about = { best: "best", second: "second", tie: "" }[entry.mark] ?? "";
    const value = make("span", { class: `value ${about}` }, entry.text, entry.doubt ? "\u2009†" : "");
    const mark = about ? hidden(`, ${about}`) : "";
    const tie = entry.mark === "tie" ? make("span", { class: "tie", title: "Not shown to differ from the best." },
      make("span", { "aria-hidden": "true" }, "\u2009‡"), hidden(", not shown to differ from the best")) : "";
    if (entry.value === undefined) return make("td", { class: "words" }, value, mark, tie);
    const rests = [entry.n ? `n ${entry.n}` : "", `${entry.seeds} seed${entry.seeds === 1 ? "" : "s"}`].filter(Boolean).join(", ");
    const why = entry.doubt ? make("span", { class: "sr", id: fresh("doubt") }, `Not to be relied upon: ${entry.doubt}`) : null;
    return make("td", { class: why ? "doubt" : null, title: entry.doubt, "aria-describedby": why?.id }, value, mark, tie,
      entry.std ? make("span", { class: "spread", title: entry.over ? `Standard deviation over ${entry.over}` : null }, entry.std) : "",
      entry.ci ? make("span", { class: "spread", title: "Confidence interval" }, entry.ci) : "",
      make("span", { class: "rests" }, rests), why);
  }
}

/** Every fact of the tables' contexts with all its values. */
function gathered(sheets) {
  const found = new Map();
  for (const sheet of sheets) {
    for (const [name, value] of sheet.context) {
      if (!found.has(name)) found.set(name, new Set());
      found.get(name).add(value);
    }
  }
  return [...found].map(([name, values]) => [name, [...values].join(", ")]);
}

function theme() {
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
  const show = () => button.setAttribute("aria-pressed", String(dark()));
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = dark() ? "light" : "dark";
    show();
  });
  system.addEventListener("change", show);
  show();
}

function start() {
  const data = JSON.parse(document.getElementById("data").textContent);
  const [tables, figures, cases] = ["tables", "figures", "cases"].map((id) => document.getElementById(id));
  theme();
  const made = data.sheets.map((sheet) => new Table(sheet));
  if (!made.length) tables.append(make("p", { class: "empty" }, "No records yet: there is nothing to rank."));
  if (made.length > 2) {
    tables.append(make("ul", { class: "list" }, ...made.map((table) => make("li", {}, make("a", { href: `#${table.id}` }, table.sheet.title)))));
  }
  tables.append(...made.map((table) => table.node(3)));
  document.getElementById("facts").append(...facts(gathered(data.sheets)));
  figures.hidden = !data.figures.length;
  figures.append(...data.figures.map(({ caption, uri, width, height }) => make("figure", { class: "figure" },
    make("img", { src: uri, alt: caption, width, height }), make("figcaption", {}, ...prose(caption)))));
  cases.append(...caseBrowser(data));
  document.getElementById("contents").append(...["tables", "figures", "cases", "text"].map((id) => document.getElementById(id))
    .filter((part) => !part.hidden)
    .map((part) => make("li", {}, make("a", { href: `#${part.id}` }, part.querySelector("h2").textContent))));
}
