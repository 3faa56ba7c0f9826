/** What was said, in order, by day: the end of it first, and more of it on request. */
import { shownOf, speakerOf } from "./card.js";
import { clockOf, dayName } from "./dates.js";
import { byId, el } from "./dom.js";
import { rendered } from "./markdown.js";

const PAGE = 30;
const MOST_SHOWN = 300;
const NEAR_END_PX = 80;

export class Log {
  /** @type {string|null} */ #cursor = null;
  #opened = 0;
  #isAtEnd = true;

  /** @param {any} page */
  constructor(page) {
    this.page = page;
    this.list = byId("log");
    this.scroll = byId("scroll");
    this.scroll.addEventListener("scroll", () => this.#onScroll());
    byId("earlier").addEventListener("click", () => this.#showEarlier());
  }

  get isEmpty() {
    return !this.list.children.length;
  }

  /** Show nothing. */
  clear() {
    this.#opened++;
    this.#cursor = null;
    this.list.replaceChildren();
    byId("earlier").hidden = true;
  }

  /** Show the end of what was said in the scope, and return it, newest first; null where that came too late. */
  async open() {
    this.clear();
    const turns = await this.#more();
    this.toEnd();
    return turns;
  }

  /** Show a new message at the end. @param {{role: string, text: string}} turn */
  add(turn) {
    const at = new Date().toISOString();
    const last = [...this.list.querySelectorAll(".message")].pop();
    if (dayOf(last) !== dayName(new Date(at))) this.list.append(heading(at));
    const made = message({ ...turn, at });
    this.list.append(made);
    return made;
  }

  /** Show a message with its new text. @param {any} memory */
  rewrite(memory) {
    for (const shown of shownOf(memory.id)) shown.querySelector(".body")?.replaceChildren(...bodyOf(memory));
  }

  /** Stay at the end, unless who reads has scrolled away from it. */
  follow() {
    if (this.#isAtEnd) this.toEnd();
  }

  toEnd() {
    this.scroll.scrollTop = this.scroll.scrollHeight;
    this.#isAtEnd = true;
  }

  #onScroll() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroll;
    this.#isAtEnd = scrollHeight - scrollTop - clientHeight < NEAR_END_PX;
  }

  async #more() {
    const opened = this.#opened;
    const query = { ...this.page.scope, kinds: "turn", limit: PAGE, cursor: this.#cursor };
    const { items, cursor } = await this.page.api.get("memories", query);
    if (opened !== this.#opened) return null;
    this.#cursor = cursor;
    this.#prepend(items);
    byId("earlier").hidden = !cursor || this.list.children.length >= MOST_SHOWN;
    return items;
  }

  async #showEarlier() {
    const fromEnd = this.scroll.scrollHeight - this.scroll.scrollTop;
    await this.#more().catch((error) => this.page.say(error.message));
    this.scroll.scrollTop = this.scroll.scrollHeight - fromEnd;
  }

  /** @param {any[]} turns newest first, all older than those that are shown */
  #prepend(turns) {
    for (const turn of turns) {
      const first = this.list.firstElementChild;
      const made = message(turn);
      made.hidden = this.page.undo.isLeaving(turn.id);
      if (first?.classList.contains("day") && first.textContent === dayOf(made)) first.after(made);
      else this.list.prepend(heading(turn.at), made);
    }
  }
}

const dayOf = (shown) => shown && dayName(new Date(shown.querySelector("time").dateTime));
const heading = (at) => el("li", { className: "day" }, dayName(new Date(at)));

/** A message, as text where a person wrote it and as Markdown where a model did. */
function message(turn) {
  const own = turn.role === "user";
  const head = el("p", { className: "by" }, el("span", {}, speakerOf(turn)), clockOf(turn.at));
  const made = el("li", { className: `message ${own ? "own" : "other"}` }, head, el("div", { className: "body" }, ...bodyOf(turn)));
  if (turn.id) made.dataset.id = turn.id;
  return made;
}

const bodyOf = ({ role, text }) => (role === "user" ? [el("p", {}, text)] : rendered(text));

/** An answer that grows. It is drawn at most once a frame, however fast it comes. */
export class Answer {
  text = "";
  #frame = 0;

  /** @param {HTMLElement} element @param {() => void} onGrown */
  constructor(element, onGrown) {
    this.element = element;
    this.onGrown = onGrown;
    this.body = /** @type {HTMLElement} */ (element.querySelector(".body"));
    this.notes = el("p", { className: "notes" });
    element.append(this.notes);
    element.classList.add("growing");
    this.body.setAttribute("aria-live", "polite");
    this.body.setAttribute("aria-busy", "true");
  }

  /** @param {string} piece */
  write(piece) {
    this.text += piece;
    this.#frame ||= requestAnimationFrame(() => this.#draw());
  }

  /** Add a note below. @param {Node} note */
  note(note) {
    this.notes.append(note);
    this.onGrown();
  }

  /** Say that nothing more comes. */
  end() {
    cancelAnimationFrame(this.#frame);
    this.#draw();
    this.element.classList.remove("growing");
    this.body.setAttribute("aria-busy", "false");
  }

  #draw() {
    this.#frame = 0;
    this.body.replaceChildren(...rendered(this.text));
    this.onGrown();
  }
}
