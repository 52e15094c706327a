/* Sliders with a live portrait. Knows no ComfyUI: everything outside comes in as functions (see style_edit.js). */

const LEVELS = ["coarse", "medium", "fine"];
const MOST_UNDO = 50;
const SHARP_AFTER_MS = 350;

const TEXTS = {
  en: {
    coarse: "Coarse: pose and shape", medium: "Medium: features and hair", fine: "Fine: colours and texture",
    more: "Other", other: "From the other person", before: "Before", undo: "Undo", redo: "Redo", reset: "Reset",
    favourites: "Favourites", name: "Name of a favourite", save: "Save", remove: "Delete",
    unit: "1 is a clear change; the range ends where the portrait breaks. Double-click: 0.",
    measuring: "Measuring the sliders of this model, once ...",
    run: "Run the workflow once to see the portrait and its sliders.",
    noGenerator: "This PIDiff model has no generator, so there is no portrait. Choose an encoder file that has one.",
    noOther: "Connect codes to the input \"other\" to mix in another person.",
    gone: "not found in the last run", person: "Person", portrait: "Portrait after the edits",
    shareOf: "share of the other person",
  },
  zh: {
    coarse: "粗：姿态和形状", medium: "中：五官和头发", fine: "细：颜色和纹理",
    more: "其他", other: "取自另一个人", before: "编辑前", undo: "撤销", redo: "重做", reset: "重置",
    favourites: "收藏", name: "收藏的名称", save: "保存", remove: "删除",
    unit: "1 为明显的变化；范围到肖像损坏为止。双击：0。",
    measuring: "正在测量此模型的滑块（仅一次）……",
    run: "运行一次工作流即可看到肖像和滑块。",
    noGenerator: "此 PIDiff 模型没有生成器，因此没有肖像。请选择含有生成器的编码器文件。",
    noOther: "把编码连接到输入 “other” 可混入另一个人。",
    gone: "上次运行中未找到", person: "人物", portrait: "编辑后的肖像",
    shareOf: "另一个人的比例",
  },
  ja: {
    coarse: "粗：顔の向きと形", medium: "中：顔立ちと髪型", fine: "細：色と質感",
    more: "その他", other: "別の人物から取り入れる", before: "編集前", undo: "元に戻す", redo: "やり直す",
    reset: "リセット",
    favourites: "お気に入り", name: "お気に入りの名前", save: "保存", remove: "削除",
    unit: "1 ははっきりした変化です。範囲はポートレートが崩れる手前までです。ダブルクリック：0。",
    measuring: "このモデルのスライダーを測定しています（初回のみ）……",
    run: "ワークフローを一度実行すると、ポートレートとスライダーが表示されます。",
    noGenerator: "この PIDiff モデルには生成器がないため、ポートレートは表示されません。生成器を含むエンコーダーファイルを選んでください。",
    noOther: "入力「other」にコードを接続すると、別の人物を混ぜられます。",
    gone: "前回の実行で見つかりませんでした", person: "人物", portrait: "編集後のポートレート",
    shareOf: "別の人物の割合",
  },
};

const STYLE = `
.pidiff-edit { box-sizing: border-box; width: 100%; height: 100%; display: grid; gap: 6px; padding: 4px 2px;
  grid-template: auto auto minmax(0, 1fr) / minmax(0, 1fr); font: 12px/1.35 Inter, Arial, sans-serif;
  color: var(--input-text, #ddd); container-type: inline-size; }
.pidiff-edit * { box-sizing: border-box; font: inherit; color: inherit; }
.pidiff-edit figure { margin: 0; display: flex; justify-content: center; min-height: 168px; position: relative;
  background: var(--comfy-input-bg, #222); border: 1px solid var(--border-color, #4e4e4e); border-radius: 6px; }
.pidiff-edit img { width: 168px; height: 168px; object-fit: contain; border-radius: 5px; }
.pidiff-edit figcaption { position: absolute; left: 8px; bottom: 6px; right: 8px; text-align: center; margin: 0;
  text-shadow: 0 0 3px #000; }
.pidiff-edit figure.empty img { visibility: hidden; }
.pidiff-edit figure.empty figcaption { bottom: auto; top: 40%; }
.pidiff-edit nav { display: flex; flex-wrap: wrap; gap: 4px; align-items: center; }
.pidiff-edit button, .pidiff-edit select, .pidiff-edit input[type=text] { height: 26px; padding: 0 9px; min-width: 0;
  border: 1px solid var(--border-color, #4e4e4e); border-radius: 5px; background: var(--comfy-input-bg, #222); }
.pidiff-edit button { cursor: pointer; touch-action: manipulation; }
.pidiff-edit button:disabled { opacity: 0.45; cursor: default; }
.pidiff-edit button[aria-pressed=true] { background: var(--p-primary-color, #3f7fbf); color: #fff; }
.pidiff-edit :focus-visible { outline: 2px solid var(--p-primary-color, #6aa9ff); outline-offset: 1px; }
.pidiff-edit .sliders { overflow-y: auto; min-height: 0; padding-right: 6px; overscroll-behavior: contain; }
.pidiff-edit fieldset { border: 0; margin: 0 0 8px; padding: 0; min-width: 0; }
.pidiff-edit legend { padding: 0; margin-bottom: 2px; opacity: 0.75; }
.pidiff-edit label { display: grid; grid-template-columns: minmax(70px, 34%) minmax(0, 1fr) 46px; gap: 6px;
  align-items: center; height: 25px; }
.pidiff-edit label span { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.pidiff-edit output { text-align: right; font-variant-numeric: tabular-nums; }
.pidiff-edit label.set output { font-weight: 600; }
.pidiff-edit input[type=range] { width: 100%; height: 24px; margin: 0; cursor: pointer; touch-action: pan-y;
  accent-color: var(--p-primary-color, #6aa9ff); }
.pidiff-edit small { opacity: 0.7; display: block; margin-bottom: 6px; }
@container (min-width: 520px) {
  .pidiff-edit figure { min-height: 256px; } .pidiff-edit img { width: 256px; height: 256px; }
}`;

function element(kind, attributes = {}, ...children) {
  const made = document.createElement(kind);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name in made && name !== "list") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function addStyle() {
  if (document.getElementById("pidiff-edit-style")) return;
  document.head.append(element("style", { id: "pidiff-edit-style", textContent: STYLE }));
}

const same = (one, two) => JSON.stringify(one) === JSON.stringify(two);
/* "faces/mine.directions.safetensors:yaw" -> "yaw", "age.npy" -> "age", "list.pth:3" -> "list:3" */
function plainName(name) {
  const [file, part] = name.split("/").pop().split(":");
  const plain = file.replace(/(\.directions)?\.(npy|pt|pth|csv|safetensors)$/i, "");
  return (part === undefined ? plain : /^\d+$/.test(part) ? `${plain}:${part}` : part).replace(/_/g, " ");
}

export class EditPanel {
  /* host: read, write, plainMix, hasOther, favourites, locale, draw; see style_edit.js. */
  constructor(host) {
    addStyle();
    this.host = host;
    this.sliders = null; // { levels: [{ level, edits: [{ name, unit, most }] }], other, people }
    this.key = null;
    this.person = 0;
    this.past = [];
    this.future = [];
    this.isBefore = false;
    this.isDrawing = false;
    this.wanted = null; // "quick" or "sharp": what to draw once the last picture is here
    this.edits = { directions: {}, mix: null };
    this.build();
  }

  text(name) {
    return (TEXTS[String(this.host.locale()).slice(0, 2)] ?? TEXTS.en)[name];
  }

  build() {
    this.image = element("img", { alt: this.text("portrait"), draggable: false });
    this.caption = element("figcaption", { role: "status" });
    this.figure = element("figure", { className: "empty" }, this.image, this.caption);
    const button = (name, act) => element("button", { type: "button", textContent: this.text(name), onclick: act });
    this.beforeButton = button("before", () => this.showBefore(!this.isBefore));
    this.beforeButton.setAttribute("aria-pressed", "false");
    this.undoButton = button("undo", () => this.step(this.past, this.future));
    this.redoButton = button("redo", () => this.step(this.future, this.past));
    this.resetButton = button("reset", () => this.change(() => this.clear()));
    this.people = element("select", {
      title: this.text("person"), hidden: true,
      onchange: () => { this.person = Number(this.people.value); this.draw(); },
    });
    this.choice = element("select", { title: this.text("favourites"), onchange: () => this.takeFavourite() });
    this.nameField = element("input", { type: "text", placeholder: this.text("name"), maxLength: 40, size: 14 });
    this.nameField.addEventListener("keydown", (event) => {
      if (event.key === "Enter") this.saveFavourite();
    });
    this.saveButton = button("save", () => this.saveFavourite());
    this.removeButton = button("remove", () => this.removeFavourite());
    this.list = element("div", { className: "sliders" });
    this.list.addEventListener("wheel", (event) => {
      if (this.list.scrollHeight > this.list.clientHeight && !event.ctrlKey) event.stopPropagation(); // not the canvas
    });
    this.element = element(
      "div", { className: "pidiff-edit" }, this.figure,
      element("nav", {}, this.beforeButton, this.undoButton, this.redoButton, this.resetButton, this.people, this.choice,
        this.nameField, this.saveButton, this.removeButton),
      this.list,
    );
    // The front end's shortcuts (Delete, Ctrl-Z ...) are not meant while the panel has the focus.
    this.element.addEventListener("keydown", (event) => event.stopPropagation());
    this.show(this.text("run"));
  }

  /* The node's input -> sliders. */
  load() {
    let content = null;
    try {
      content = JSON.parse(this.host.read() || "{}");
    } catch {
      // the node's own error says so when it runs
    }
    this.edits = {
      directions: { ...(content?.directions ?? {}) },
      mix: content?.mix ? { ...content.mix } : null,
    };
    this.render();
  }

  setKey(key) {
    this.key = key;
  }

  setSliders(sliders) {
    this.element.dataset.ready = String(!sliders.more);
    if (same(sliders, this.sliders)) return;
    this.sliders = sliders;
    this.person = Math.min(this.person, sliders.people - 1);
    const numbers = Array.from({ length: sliders.people }, (_, index) => index);
    this.people.replaceChildren(
      ...numbers.map((index) => element("option", {
        value: String(index), textContent: `${this.text("person")} ${index + 1}`, selected: index === this.person,
      })),
    );
    this.people.hidden = sliders.people < 2;
    if (this.before) this.isStale = true; // a slider is being moved: not now
    else this.render();
  }

  mix() {
    return this.edits.mix ?? this.host.plainMix();
  }

  render() {
    this.isStale = false;
    const scrolled = this.list.scrollTop;
    const focused = document.activeElement?.dataset?.slider;
    const groups = [];
    const known = new Set();
    for (const { level, edits } of this.sliders?.levels ?? []) {
      edits.forEach((edit) => known.add(edit.name));
      if (edits.length) groups.push([level, edits]);
    }
    const others = Object.entries(this.edits.directions).filter(([name]) => !known.has(name));
    if (others.length) {
      groups.push(["more", others.map(([name, steps]) => ({ name, unit: 1, most: Math.max(1, Math.abs(steps)), gone: true }))]);
    }
    const rows = groups.map(([title, edits]) =>
      element("fieldset", {}, element("legend", { textContent: this.text(title) }), ...edits.map((edit) => this.row(edit))));
    if (this.host.hasOther()) {
      rows.push(element("fieldset", {}, element("legend", { textContent: this.text("other") }),
        ...LEVELS.map((level) => this.mixRow(level))));
    } else if (this.sliders) {
      rows.push(element("small", { textContent: this.text("noOther") }));
    }
    if (known.size) rows.unshift(element("small", { textContent: this.text("unit") }));
    this.list.replaceChildren(...rows);
    this.list.scrollTop = scrolled;
    if (focused) [...this.list.querySelectorAll("input")].find((input) => input.dataset.slider === focused)?.focus();
    this.enableSteps();
    const names = Object.keys(this.host.favourites());
    const chosen = this.choice.value;
    this.choice.replaceChildren(
      element("option", { value: "", textContent: this.text("favourites") }),
      ...names.map((name) => element("option", { value: name, textContent: name, selected: name === chosen })),
    );
    this.choice.hidden = this.removeButton.hidden = !names.length;
  }

  row(edit) {
    const value = (this.edits.directions[edit.name] ?? 0) / edit.unit;
    const most = edit.most / edit.unit;
    const title = edit.gone ? `${edit.name}: ${this.text("gone")}` : `${edit.name}: 1 = ${edit.unit.toPrecision(3)} steps`;
    return this.slider({
      id: `direction:${edit.name}`, label: plainName(edit.name), title, value, low: -most, high: most, step: most / 60,
      shown: (amount) => `${amount > 0 ? "+" : ""}${amount.toFixed(2)}`,
      set: (amount) => {
        if (amount) this.edits.directions[edit.name] = Number((amount * edit.unit).toFixed(4));
        else delete this.edits.directions[edit.name];
      },
    });
  }

  mixRow(level) {
    return this.slider({
      id: `mix:${level}`, label: this.text(level).split(/[:：]/)[0], title: `${this.text(level)}, ${this.text("shareOf")}`,
      value: this.mix()[level] ?? 0, low: 0, high: 1, step: 0.05, shown: (share) => `${Math.round(share * 100)} %`,
      set: (share) => {
        this.edits.mix = { ...this.mix(), [level]: share };
      },
    });
  }

  slider({ id, label, title, value, low, high, step, shown, set }) {
    const output = element("output", { textContent: shown(value) });
    const input = element("input", { type: "range", min: low, max: high, step: "any", title, "aria-label": label });
    input.dataset.slider = id;
    input.value = value;
    const row = element("label", { title }, element("span", { textContent: label }), input, output);
    const update = (amount) => {
      const near = Math.abs(amount) < (high - low) / 80 ? 0 : amount; // the middle is easy to hit
      output.textContent = shown(near);
      row.classList.toggle("set", near !== 0);
      set(near);
      this.store();
      this.draw("quick");
    };
    row.classList.toggle("set", value !== 0);
    const begin = () => (this.before ??= structuredClone(this.edits));
    input.addEventListener("input", () => { begin(); update(Number(input.value)); });
    input.addEventListener("change", () => this.keep());
    input.addEventListener("keydown", (event) => {
      const sign = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 5, PageDown: -5 }[event.key];
      const target = event.key === "Home" ? low : event.key === "End" ? high
        : event.key === "Delete" || event.key === "Backspace" ? 0 : sign && Number(input.value) + sign * step;
      if (target === undefined) return;
      event.preventDefault();
      begin();
      input.value = Math.abs(target) < step / 2 ? 0 : target;
      update(Number(input.value));
      this.keep();
    });
    row.addEventListener("dblclick", () => { begin(); input.value = 0; update(0); this.keep(); });
    return row;
  }

  store() {
    const { directions, mix } = this.edits;
    const isEmpty = !Object.keys(directions).length && !mix;
    this.host.write(isEmpty ? "" : JSON.stringify(mix ? { directions, mix } : { directions }));
  }

  /* The end of a movement: one step of undo. */
  keep() {
    if (this.before && !same(this.before, this.edits)) {
      this.past.push(this.before);
      if (this.past.length > MOST_UNDO) this.past.shift();
      this.future = [];
    }
    this.before = null;
    this.enableSteps();
    if (this.isStale) this.render();
  }

  change(act) {
    this.before = structuredClone(this.edits);
    act();
    this.keep();
    this.store();
    this.render();
    this.draw();
  }

  clear() {
    this.edits = { directions: {}, mix: { coarse: 0, medium: 0, fine: 0 } };
  }

  enableSteps() {
    this.undoButton.disabled = !this.past.length;
    this.redoButton.disabled = !this.future.length;
  }

  /* Undo and redo: take the newest state from one list, and put the present one into the other. */
  step(from, to) {
    if (!from.length) return;
    to.push(this.edits);
    this.edits = from.pop();
    this.store();
    this.render();
    this.draw();
  }

  saveFavourite() {
    const favourites = this.host.favourites();
    const name = this.nameField.value.trim() || `${this.text("favourites")} ${Object.keys(favourites).length + 1}`;
    favourites[name] = structuredClone(this.edits);
    this.nameField.value = "";
    this.render();
    this.choice.value = name;
  }

  takeFavourite() {
    const found = this.host.favourites()[this.choice.value];
    if (found) this.change(() => (this.edits = structuredClone(found)));
  }

  removeFavourite() {
    delete this.host.favourites()[this.choice.value];
    this.render();
  }

  showBefore(isBefore) {
    this.isBefore = isBefore;
    this.beforeButton.setAttribute("aria-pressed", String(isBefore));
    this.draw();
  }

  say(name) {
    this.show(this.text(name));
  }

  show(sentence) {
    this.caption.textContent = sentence;
  }

  /* One request at a time: while a slider moves, what comes back is followed by the newest state only. */
  draw(kind = "sharp") {
    clearTimeout(this.timer);
    if (!this.key) return;
    if (kind === "quick") {
      this.timer = setTimeout(() => this.draw("sharp"), SHARP_AFTER_MS);
      if (this.isBefore) this.showBefore(false);
    }
    this.wanted = kind;
    if (!this.isDrawing) this.drawing = this.next();
    return this.drawing; // done when nothing more is wanted
  }

  async next() {
    this.isDrawing = true;
    while (this.wanted) {
      const quick = this.wanted === "quick";
      this.wanted = null;
      const { directions, mix } = this.isBefore ? { directions: {}, mix: {} } : this.edits;
      const started = performance.now();
      try {
        const picture = await this.host.draw({
          key: this.key, person: this.person, quick, edits: mix ? { directions, mix } : { directions },
        });
        const address = URL.createObjectURL(picture);
        await new Promise((done) => { this.image.onload = this.image.onerror = done; this.image.src = address; });
        URL.revokeObjectURL(address);
        this.figure.classList.remove("empty");
        this.element.dataset.drawn = String(Number(this.element.dataset.drawn ?? 0) + 1);
        this.element.dataset.milliseconds = String(Math.round(performance.now() - started));
        this.show(this.isBefore ? this.text("before") : "");
      } catch (error) {
        this.show(error.message);
      }
    }
    this.isDrawing = false;
  }

  dispose() {
    clearTimeout(this.timer);
    this.key = null;
  }
}
