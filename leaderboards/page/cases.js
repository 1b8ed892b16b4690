
/** Colours of overlays; patterns tell them apart as well. */
const COLOURS = { mask: [255, 140, 26], opacity: [56, 163, 255], before: "#3ee0e0", after: "#ffe14d", reference: "#ffffff" };
/** Which pieces of an outline are drawn, by their place: dashes, everything, dots. */
const PATTERNS = { before: (along) => along % 5 < 3, after: () => true, reference: (along) => along % 2 === 0 };
/** Pixels of the longer side of a canvas with outlines: of one image, of one among many. */
const FINE = { one: 1024, many: 512 };

/** Pixel values of stored images, each decoded once. */
class Pixels {
  constructor(uris) {
    this.uris = uris;
    this.known = new Map();
  }

  get(place) {
    if (!this.known.has(place)) this.known.set(place, this.read(this.uris[place]));
    return this.known.get(place);
  }

  async read(uri) {
    const image = new Image();
    image.src = uri;
    await image.decode();
    const canvas = make("canvas", { width: image.naturalWidth, height: image.naturalHeight });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    const { data, width, height } = context.getImageData(0, 0, canvas.width, canvas.height);
    return { width, height, values: Uint8Array.from({ length: width * height }, (_, i) => data[4 * i]) };
  }
}

/** A colour as strong as the values; in stripes where `striped`. */
function tint({ width, height, values }, [red, green, blue], striped) {
  const canvas = make("canvas", { width, height, class: "tint" });
  const context = canvas.getContext("2d");
  const out = context.createImageData(width, height);
  const period = Math.max(4, Math.round(width / 32));
  values.forEach((value, i) => {
    const gap = striped && ((i % width) + Math.floor(i / width)) % period >= period / 2;
    out.data.set([red, green, blue, gap ? value * 0.18 : value * 0.78], 4 * i);
  });
  context.putImageData(out, 0, 0);
  return canvas;
}

/** The outline of one bit of the values, along the edges of pixels. */
function outline(canvas, { width, height, values }, bit, kind) {
  const context = canvas.getContext("2d");
  const scale = canvas.width / width;
  const on = (x, y) => (x >= 0 && y >= 0 && x < width && y < height ? (values[y * width + x] >> bit) & 1 : 0);
  const at = (x, end) => Math.min(Math.max(x * scale, 4), end * scale - 4);  // lines at the border are as thick as others
  const chunk = Math.max(1, Math.round(width / 128));
  const draw = (along) => PATTERNS[kind](Math.floor(along / chunk));
  const path = new Path2D();
  for (let y = 0; y <= height; y += 1) {
    for (let x = 0; x <= width; x += 1) {
      const [left, top] = [at(x, width), at(y, height)];
      if (draw(y) && on(x, y) !== on(x - 1, y)) { path.moveTo(left, top); path.lineTo(left, at(y + 1, height)); }
      if (draw(x) && on(x, y) !== on(x, y - 1)) { path.moveTo(left, top); path.lineTo(at(x + 1, width), top); }
    }
  }
  context.lineCap = "round";
  for (const [colour, thick] of [["#000000", 9], [COLOURS[kind], 5]]) {
    context.strokeStyle = colour;
    context.lineWidth = thick;
    context.stroke(path);
  }
}

/** One test set at a time, one case at a time: a method against the input, or all methods. */
class Browser {
  constructor(data) {
    this.sets = data.sets;
    this.images = data.images;
    this.pixels = new Pixels(data.images);
    this.at = { set: 0, case: 0, method: 0 };
    this.on = { mask: false, opacity: false, before: false, after: false, reference: false, counterpart: false, all: false, pixels: false };
    this.segmenter = null;
    this.divide = 50;
    this.turn = 0;
    this.picker = {};
    this.view = make("div", { class: "view" });
    this.options = make("div", { class: "side" });
    this.scores = make("div", { class: "scores", tabindex: "0", role: "region", "aria-label": "Scores of this case" });
    this.status = make("p", { class: "sr", role: "status" });
    this.rule = make("p", { class: "rule wide" });
    this.paper = make("p", { class: "paper wide" });
    this.node = make("div", { class: "browser", onkeydown: (event) => this.key(event) });
    this.node.append(this.selectors(), this.paper, this.rule, this.view, this.options, this.scores, this.help(), this.status);
    this.choose("set", 0);
  }

  get set() { return this.sets[this.at.set]; }
  get case() { return this.set.cases[this.at.case]; }
  get method() { return this.set.methods[this.at.method]; }
  get result() { return this.case.results[this.at.method]; }

  selectors() {
    const select = (name) => {
      this.picker[name] = make("select", { onchange: (event) => this.choose(name, event.target.selectedIndex) });
      return this.picker[name];
    };
    const step = (words, by) => make("button", { type: "button", onclick: () => this.step(by) }, words);
    return make("div", { class: "tools" }, field("Test set", select("set")), field("Case", select("case")),
      field("Method", select("method")), make("span", { class: "pair" }, step("Previous case", -1), step("Next case", 1)));
  }

  help() {
    const keys = (...names) => names.flatMap((name, i) => [i ? " and " : "", make("kbd", {}, name)]);
    return make("p", { class: "keys wide" }, "Keys: ", ...keys("\u2190", "\u2192"), " move the divider while its slider has the focus; ",
      ...keys("j", "k"), " show the next and the previous case while the focus is anywhere in this section but in a list. " +
      "The divider can be dragged on the image as well.");
  }

  key(event) {
    if (event.ctrlKey || event.altKey || event.metaKey || event.target.matches("select, input[type=search]")) return;
    const by = { j: 1, k: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    this.step(by);
  }

  step(by) {
    const count = this.set.cases.length;
    this.choose("case", (this.at.case + by + count) % count);
  }

  choose(name, place) {
    this.at[name] = place;
    if (name === "set") {
      const fill = (select, words) => select.replaceChildren(...words.map((word) => make("option", {}, word)));
      this.at.case = 0;
      this.at.method = 0;
      fill(this.picker.set, this.sets.map((set) => set.title || set.test));
      fill(this.picker.case, this.set.cases.map((one, i) => `${i + 1}. ${one.id} (${one.why})`));
      fill(this.picker.method, this.set.methods);
      this.rule.textContent = `${this.set.rule.replace(/\.$/, "")}. Training seed ${this.set.seed}.`;
    }
    for (const [one, select] of Object.entries(this.picker)) select.selectedIndex = this.at[one];
    this.draw();
    this.paper.textContent = `${this.set.title || this.set.test}. Case ${this.at.case + 1} of ${this.set.cases.length}: ` +
      `${this.case.id} (${this.case.why}), ${this.on.all ? "all methods" : this.method}.`;
    this.status.textContent = `Case ${this.at.case + 1} of ${this.set.cases.length}: ${this.case.id}, ${this.method}.`;
  }

  /** Names of segmenters that drew lungs of this case. */
  segmenters() {
    const results = this.on.all ? this.case.results : [this.result];
    return [...new Set([...Object.keys(this.case.before), ...results.flatMap((result) => Object.keys(result.after))])];
  }

  draw() {
    const names = this.segmenters();
    if (!names.includes(this.segmenter)) this.segmenter = names.includes(this.set.segmenter) ? this.set.segmenter : names[0] ?? null;
    this.turn += 1;
    this.node.classList.toggle("all", this.on.all);
    this.node.classList.toggle("pixels", this.on.pixels);
    const focused = document.activeElement?.dataset?.option;
    this.view[this.on.all ? "before" : "after"](this.options);
    this.drawOptions(names);
    if (focused) this.options.querySelector(`[data-option="${focused}"]`)?.focus();
    this.drawView();
    this.drawScores();
  }

  drawOptions(names) {
    const { case: one } = this;
    const results = this.on.all ? one.results : [this.result];
    const swatch = (kind) => make("span", { class: `swatch ${kind}`, "aria-hidden": "true" });
    const option = (name, words, known, kind) => {
      const label = [kind ? swatch(kind) : "", words, known ? "" : ", not known here"];
      const node = check(label, this.on[name] && known, (on) => { this.on[name] = on; this.draw(); }, { "data-option": name, disabled: !known });
      node.classList.toggle("off", !known);
      return node;
    };
    const select = make("select", { "data-option": "segmenter", onchange: () => { this.segmenter = select.value; this.draw(); } },
      ...names.map((name) => make("option", { value: name }, name)));
    if (this.segmenter) select.value = this.segmenter;
    this.options.replaceChildren(
      make("fieldset", {}, make("legend", {}, "View"),
        option("all", "All methods side by side", true),
        option("counterpart", this.on.all ? "True clear image as well" : "True clear image in place of the input", one.counterpart !== null),
        option("pixels", "Show pixels, do not smooth", true)),
      make("fieldset", {}, make("legend", {}, "Drawn over the images"),
        option("mask", "Activation mask (stronger is more active)", results.some((result) => result.mask !== null), "mask"),
        option("opacity", "True opacity (striped)", one.opacity !== null, "opacity"),
        option("before", "Lungs in the input (dashed)", this.segmenter in one.before, "before"),
        option("after", "Lungs in the translation (solid)", results.some((result) => this.segmenter in result.after), "after"),
        option("reference", "Reference lungs (dotted)", one.reference !== null, "reference"),
        names.length ? field("Lungs as seen by", select) : null));
  }

  image(place, alt) {
    return make("img", { src: this.images[place], alt, draggable: "false" });
  }

  /** Images of one size with what is chosen drawn over them. */
  frame(images, result, method, how) {
    const node = make("div", { class: "frame", ...how }, ...images);
    const turn = this.turn;
    this.overlays(node, result, method, turn);
    this.pixels.get(this.case.image).then(({ width, height }) => { node.style.aspectRatio = `${width} / ${height}`; });
    return node;
  }

  async overlays(node, result, method, turn) {
    const { case: one, on, segmenter } = this;
    const layers = [];
    const named = (canvas, words) => {
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", words);
      layers.push(canvas);
    };
    if (on.opacity && one.opacity !== null) named(tint(await this.pixels.get(one.opacity), COLOURS.opacity, true), `True opacity of ${one.id}`);
    if (on.mask && result && result.mask !== null) named(tint(await this.pixels.get(result.mask), COLOURS.mask, false), `Activation mask of ${method}`);
    const lines = [
      ["after", on.after && result ? result.after[segmenter] : null, `Outline of the lungs in the translation by ${method}, by ${segmenter}`],
      ["before", on.before ? one.before[segmenter] : null, `Outline of the lungs in the input, by ${segmenter}`],
      ["reference", on.reference ? one.reference : null, "Outline of the reference lungs"],
    ].filter(([, place]) => place);
    for (const [kind, [place, bit], words] of lines) {
      const values = await this.pixels.get(place);
      const scale = Math.max(1, Math.floor((on.all ? FINE.many : FINE.one) / Math.max(values.width, values.height)));
      const canvas = make("canvas", { width: values.width * scale, height: values.height * scale, class: "outline" });
      outline(canvas, values, bit, kind);
      if (kind === "reference" && one.undecided) await this.blank(canvas, one.undecided);
      named(canvas, words);
    }
    const odd = [["Translation", on.after && result?.odd[segmenter]], ["Input", on.before && one.odd[segmenter]]].filter(([, words]) => words);
    const told = odd.map(([whose, words]) => make("span", { class: "odd" }, `${whose}: ${words}`));
    if (turn === this.turn) node.append(...layers, told.length ? make("div", { class: "odds" }, ...told) : "");
  }

  /** No outline where the reference does not say. */
  async blank(canvas, [place, bit]) {
    const { width, height, values } = await this.pixels.get(place);
    const context = canvas.getContext("2d");
    const [x, y] = [canvas.width / width, canvas.height / height];
    values.forEach((value, i) => {
      if ((value >> bit) & 1) context.clearRect((i % width) * x, Math.floor(i / width) * y, x, y);
    });
  }

  drawView() {
    this.view.className = this.on.all ? "view grid" : "view";
    this.view.replaceChildren(...(this.on.all ? this.grid() : this.wipe()));
  }

  grid() {
    const { case: one } = this;
    const cell = (frame, caption, shown) => make("figure", { class: shown ? "shown" : null }, frame, make("figcaption", {}, caption));
    const plain = (place, words) => cell(this.frame([this.image(place, `${words} of case ${one.id}`)], null, "", {}), words, false);
    const methods = this.set.methods.map((method, i) => cell(
      this.frame([this.image(one.results[i].image, `Translation of case ${one.id} by ${method}`)], one.results[i], method, {}),
      make("button", { type: "button", title: "Compare it with the input", onclick: () => { this.compare(i); } }, method),
      i === this.at.method));
    const clear = this.on.counterpart && one.counterpart !== null ? [plain(one.counterpart, "True clear image")] : [];
    return [plain(one.image, "Input"), ...clear, ...methods];
  }

  compare(method) {
    this.on.all = false;
    this.choose("method", method);
    this.view.querySelector(".wipe").focus();
  }

  wipe() {
    const { case: one, method } = this;
    const swap = this.on.counterpart && one.counterpart !== null;
    const left = swap ? "True clear image" : "Input";
    const below = this.image(swap ? one.counterpart : one.image, `${left} of case ${one.id}`);
    const above = this.image(this.result.image, `Translation of case ${one.id} by ${method}`);
    above.classList.add("translation");
    const divider = make("div", { class: "divider", "aria-hidden": "true" });
    const slider = make("input", { type: "range", class: "wipe", min: 0, max: 100, step: 1, value: this.divide,
      "aria-label": `Divider between ${left.toLowerCase()} and translation`, oninput: () => move(Number(slider.value)) });
    const move = (percent) => {
      this.divide = Math.min(100, Math.max(0, Math.round(percent)));
      slider.value = this.divide;
      slider.setAttribute("aria-valuetext", `${this.divide} % ${left.toLowerCase()}, ${100 - this.divide} % ${method}`);
      above.style.clipPath = `inset(0 0 0 ${this.divide}%)`;
      divider.style.left = `${this.divide}%`;
    };
    const drag = (event) => {
      const box = stage.getBoundingClientRect();
      move((100 * (event.clientX - box.left)) / box.width);
    };
    const stage = this.frame([below, above], this.result, method, { class: "frame stage",
      onmousedown: (event) => event.preventDefault(),  // the slider keeps the focus
      onpointerdown: (event) => {
        if (event.button) return;
        stage.setPointerCapture(event.pointerId);
        slider.focus({ preventScroll: true });
        drag(event);
      },
      onpointermove: (event) => { if (stage.hasPointerCapture(event.pointerId)) drag(event); } });
    stage.append(make("span", { class: "tag left", "aria-hidden": "true" }, left), make("span", { class: "tag right", "aria-hidden": "true" }, method), divider);
    if (document.activeElement?.classList.contains("wipe")) queueMicrotask(() => slider.focus({ preventScroll: true }));
    move(this.divide);
    return [stage, slider];
  }

  drawScores() {
    const { methods } = this.set;
    const shown = this.on.all ? methods.map((_, i) => i) : [this.at.method];
    const names = [...new Set(shown.flatMap((i) => Object.keys(this.case.results[i].scores)))];
    if (!names.length) return this.scores.replaceChildren(make("p", { class: "empty" }, "The records hold no scores of single images for this case."));
    const value = (i, name) => {
      const found = this.case.results[i].scores[name];
      const digits = this.set.metrics[name]?.digits;
      if (found === undefined || found === null) return "\u2013";
      return digits === undefined ? String(Number(found.toPrecision(4))) : found.toFixed(digits);
    };
    const heading = (name) => {
      const about = this.set.metrics[name];
      if (!about) return [name];
      const { label, unit, arrow, better, evaluator } = about;
      const mark = arrow ? make("span", { "aria-hidden": "true", class: "direction" }, `\u00a0${arrow}`) : "";
      const named = make("span", {}, label, unit ? ` (${unit})` : "", mark, better ? hidden(`, ${better} is better`) : "");
      return [named, make("span", { class: "evaluator" }, evaluator)];
    };
    const selected = (i) => this.on.all && i === this.at.method;
    const rows = names.map((name) => make("tr", {}, make("th", { scope: "row", class: "stub", title: name }, ...heading(name)),
      ...shown.map((i) => make("td", { class: selected(i) ? "shown" : null }, value(i, name)))));
    return this.scores.replaceChildren(make("table", {}, make("caption", {}, `Scores of case ${this.case.id} alone`),
      make("thead", {}, make("tr", {}, make("th", { scope: "col", class: "stub" }, "Score"), ...shown.map((i) => make("th", { scope: "col", class: selected(i) ? "shown" : null },
        methods[i], selected(i) ? make("span", { class: "evaluator" }, "selected") : "")))),
      make("tbody", {}, ...rows)));
  }
}

/** The browser and what is said about cases. */
function caseBrowser(data) {
  const withheld = data.withheld.map((title) => make("p", { class: "notice" },
    `${title}: images and per-image scores of this restricted dataset are left out; its terms do not allow to hand them on.`));
  const kept = data.kept.map((title) => make("p", { class: "notice" },
    `${title}: the terms of these images forbid to pass them on. Do not pass this file on.`));
  if (data.sets.length) return [...withheld, ...kept, new Browser(data).node];
  return [...withheld, make("p", { class: "empty" }, "There are no cases to show: no stored translations were given.")];
}

start();
