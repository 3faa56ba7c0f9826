/** A picture of when memories are from: a bar for each day or month, reached by keyboard, and the same as a table. */
import { byId, counted, el, settled, svg } from "./dom.js";

const PAGE = 1000;
const PAGES_AT_FIRST = 5, PAGES_MORE = 20;
const MOST_BARS = 400;
const GAP = 4, HEIGHT = 160, BASE = 24;
const NARROWEST = 14, WIDEST = 40, ROOM = 392; // of a bar, and of all where they fit
const LONG_MS = 60 * 86400 * 1000; // what goes further back is shown by months at first
const CHANGES = new Set(["turn_stored", "fact_added", "memory_deleted", "memories_deleted"]);

export class Timeline {
  /** @type {{id: string, kind: string, when: Date}[]} newest first */ #memories = [];
  /** @type {string|null} */ #cursor = null;
  #total = 0;
  #opened = 0;
  #isStale = true;
  #isChosen = false;

  /** @param {any} page */
  constructor(page) {
    this.page = page;
    const changed = settled(() => this.#renew(), 1000);
    page.bus.on("scope", () => this.#renew());
    page.bus.on("view", () => this.#isStale && this.#renew());
    page.bus.on("memory", (event) => CHANGES.has(event.type) && changed());
    byId("timeline-more").addEventListener("click", () => this.#read(this.#opened, PAGES_MORE));
    for (const choice of document.getElementsByName("step")) {
      choice.addEventListener("change", () => (this.#isChosen = true) && this.#draw());
    }
  }

  async #renew() {
    this.#isStale = true;
    if (byId("timeline").hidden || byId("picture").contains(document.activeElement)) return;
    this.#isStale = false;
    this.#memories = [];
    this.#cursor = null;
    await this.#read(++this.#opened, PAGES_AT_FIRST);
  }

  /** Read some pages of the listing, and show all that was read. */
  async #read(opened, most) {
    byId("timeline-more").hidden = true;
    try {
      const counts = await this.page.api.get("counts", this.page.scope);
      this.#total = counts.turns + counts.facts;
      for (let pages = 0; pages < most && (pages === 0 || this.#cursor); pages++) {
        const found = await this.page.api.get("memories", { ...this.page.scope, limit: PAGE, cursor: this.#cursor });
        if (opened !== this.#opened) return;
        this.#memories.push(...found.items.map(({ id, kind, at }) => ({ id, kind, when: new Date(at) })));
        this.#cursor = found.cursor;
      }
      this.#draw();
    } catch (error) {
      this.page.bus.tell("failed", error);
      byId("timeline-note").textContent = error.message;
    }
  }

  #draw() {
    const step = this.#step();
    const bars = barsOf(this.#memories, step);
    byId("timeline-note").textContent = this.#note();
    byId("timeline-more").hidden = !this.#cursor;
    byId("picture").replaceChildren(...(bars.length ? [picture(bars, (bar) => this.#look(bar))] : []));
    byId("picture").scrollLeft = byId("picture").scrollWidth;
    byId("table").replaceChildren(table(bars));
  }

  /** What a bar stands for: as chosen, else what suits the time that was read. */
  #step() {
    const choices = [...document.getElementsByName("step")];
    if (!this.#isChosen && this.#memories.length) {
      const span = this.#memories[0].when.getTime() - this.#memories.at(-1).when.getTime();
      choices.find((choice) => choice.value === (span > LONG_MS ? "month" : "day")).checked = true;
    }
    return choices.find((choice) => choice.checked).value;
  }

  #note() {
    if (!this.#memories.length) return "Nothing is remembered yet. What you say in the chat shows up here by its date.";
    const shown = this.#memories.length;
    const all = counted(this.#total, "memory", "memories");
    return `${this.#cursor ? `The newest ${shown.toLocaleString("en")} of ${all}` : all}. Choose a bar to read them.`;
  }

  #look({ from, to }) {
    this.page.bus.tell("period", { from: isoDay(from), to: isoDay(to) });
  }
}

/** Count by days or months without leaving any out between; the newest last. */
function barsOf(memories, step) {
  if (!memories.length) return [];
  const bars = new Map();
  const last = begin(memories.at(-1).when, step).getTime();
  for (let at = begin(memories[0].when, step); at.getTime() >= last && bars.size < MOST_BARS; at = moved(at, step, -1)) {
    bars.set(at.getTime(), { from: at, to: dayBefore(moved(at, step, 1)), turn: 0, fact: 0, step });
  }
  for (const { kind, when } of memories) {
    const bar = bars.get(begin(when, step).getTime());
    if (bar) bar[kind]++;
  }
  return [...bars.values()].reverse();
}

const begin = (when, step) => new Date(when.getFullYear(), when.getMonth(), step === "day" ? when.getDate() : 1);
const dayBefore = (when) => new Date(when.getFullYear(), when.getMonth(), when.getDate() - 1);
const moved = (when, step, by) =>
  step === "day" ? new Date(when.getFullYear(), when.getMonth(), when.getDate() + by) : new Date(when.getFullYear(), when.getMonth() + by, 1);
const isoDay = (when) => [when.getFullYear(), when.getMonth() + 1, when.getDate()].map((n) => String(n).padStart(2, "0")).join("-");
const nameOf = ({ from, step }) =>
  from.toLocaleDateString("en-GB", step === "day" ? { day: "numeric", month: "long", year: "numeric" } : { month: "long", year: "numeric" });
const wordsOf = (bar) => `${nameOf(bar)}: ${counted(bar.turn, "message")}, ${counted(bar.fact, "fact")}`;

function picture(bars, onChoose) {
  const pitch = Math.min(WIDEST, Math.max(NARROWEST, Math.floor(ROOM / bars.length) - GAP)) + GAP;
  const width = bars.length * pitch, most = Math.max(...bars.map((bar) => bar.turn + bar.fact));
  const size = { viewBox: `0 0 ${width} ${HEIGHT + BASE}`, width, height: HEIGHT + BASE };
  const drawn = svg("svg", { ...size, role: "group", "aria-label": "Memories by date. Arrow keys move, Enter opens." });
  drawn.append(...bars.map((bar, place) => barOf(bar, place * pitch, pitch - GAP, most, onChoose)));
  drawn.append(...labels(bars, pitch));
  drawn.addEventListener("keydown", (event) => onArrow(event, drawn));
  drawn.querySelector("g:last-of-type")?.setAttribute("tabindex", "0");
  return drawn;
}

function barOf(bar, x, width, most, onChoose) {
  const scale = (HEIGHT - 8) / most;
  const turn = bar.turn * scale, fact = bar.fact * scale;
  const made = svg("g", { role: "button", tabindex: -1, class: "bar", "aria-label": wordsOf(bar) });
  made.append(
    svg("title", {}, wordsOf(bar)),
    svg("rect", { class: "area", x, y: 0, width: width + GAP, height: HEIGHT }),
    svg("rect", { class: "turn", x, y: HEIGHT - turn, width, height: turn, rx: 2 }),
    svg("rect", { class: "fact", x, y: HEIGHT - turn - fact, width, height: fact, rx: 2 }),
    svg("rect", { class: "floor", x, y: HEIGHT, width, height: 2 }),
  );
  const choose = () => bar.turn + bar.fact && onChoose(bar);
  made.addEventListener("click", choose);
  made.addEventListener("keydown", (event) => (event.key === "Enter" || event.key === " ") && (event.preventDefault(), choose()));
  return made;
}

/** The names of years or months under the first bar of each. */
function labels(bars, pitch) {
  const form = bars[0].step === "day" ? { month: "short", year: "2-digit" } : { year: "numeric" };
  const made = [];
  let before = "", free = 0;
  bars.forEach((bar, place) => {
    const name = bar.from.toLocaleDateString("en-GB", form), x = place * pitch;
    if (name === before || x < free) return;
    before = name;
    free = x + 52;
    made.push(svg("text", { x, y: HEIGHT + 18, "aria-hidden": "true" }, name));
  });
  return made;
}

function onArrow(event, drawn) {
  const bars = [...drawn.querySelectorAll("g")], at = bars.indexOf(document.activeElement);
  const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: bars.length - 1 }[event.key];
  if (to === undefined || !bars[to]) return;
  event.preventDefault();
  bars[at]?.setAttribute("tabindex", "-1");
  bars[to].setAttribute("tabindex", "0");
  bars[to].focus();
  bars[to].scrollIntoView({ block: "nearest", inline: "nearest" });
}

function table(bars) {
  const head = el("tr", {}, ...["When", "Messages", "Facts"].map((name) => el("th", { scope: "col" }, name)));
  const filled = bars.filter((bar) => bar.turn + bar.fact).reverse();
  const cell = (number) => el("td", {}, String(number));
  const rows = filled.map((bar) => el("tr", {}, el("th", { scope: "row" }, nameOf(bar)), cell(bar.turn), cell(bar.fact)));
  return el("table", {}, el("thead", {}, head), el("tbody", {}, ...rows));
}
