/** All memories: searched, filtered, and listed page by page. At most one page is in the document. */
import { card, nothing } from "./card.js";
import { byId, counted, el, settled } from "./dom.js";

const PAGE = 50;
const BEST = 25;
const TYPING_MS = 250;
const CHANGING_MS = 400;
const FILTERS = ["kind", "who", "from", "to", "as-of", "contains"];
const CHANGES = new Set(["turn_stored", "fact_added", "fact_superseded", "memory_deleted", "memories_deleted"]);

export class Memories {
  /** @type {(string|null)[]} cursors of the pages up to the one that is shown */ #cursors = [null];
  /** @type {string|null} */ #next = null;
  /** @type {AbortController} */ #loading = new AbortController();
  #isStale = true;

  /** @param {any} page */
  constructor(page) {
    this.page = page;
    this.list = byId("found");
    const search = settled(() => this.first(), TYPING_MS), changed = settled(() => this.#onChanged(), CHANGING_MS);
    byId("search").addEventListener("input", search);
    byId("search").addEventListener("submit", (event) => (event.preventDefault(), this.first()));
    byId("filters-clear").addEventListener("click", () => this.#clear());
    byId("older").addEventListener("click", () => this.#turn([...this.#cursors, this.#next]));
    byId("newer").addEventListener("click", () => this.#turn(this.#cursors.slice(0, -1)));
    page.bus.on("scope", () => this.#refresh());
    page.bus.on("view", (view) => view === "memories" && this.#isStale && this.first());
    page.bus.on("memory", (event) => CHANGES.has(event.type) && changed());
    page.bus.on("lost", changed);
    page.bus.on("period", ({ from, to }) => this.#period(from, to));
  }

  /** Look for what the fields say, from the first page. */
  first() {
    return this.#turn([null]);
  }

  #refresh() {
    this.#isStale = true;
    this.list.replaceChildren();
    if (this.#isShown) this.first();
  }

  get #isShown() {
    return !byId("memories").hidden;
  }

  /** Show the page anew, unless somebody works in it. */
  #onChanged() {
    this.#isStale = true;
    const works = this.list.contains(document.activeElement) || this.list.querySelector("form, .history");
    if (this.#isShown && !works && this.#cursors.length === 1) this.first();
  }

  async #turn(cursors) {
    this.#loading.abort();
    const loading = (this.#loading = new AbortController());
    try {
      const found = await this.#find(cursors.at(-1), loading.signal);
      this.#cursors = cursors;
      this.#isStale = false;
      this.#show(found);
    } catch (error) {
      if (loading.signal.aborted) return;
      this.page.bus.tell("failed", error);
      byId("found-note").textContent = error.message;
    }
  }

  async #find(cursor, signal) {
    const query = byId("query").value.trim();
    const asked = { ...this.page.scope, ...wanted() };
    const sought = { ...asked, query, limit: BEST, explain: true };
    if (query) return this.page.api.send("POST", "search", sought, { signal });
    const [found, counts] = await Promise.all([
      this.page.api.send("GET", "memories", undefined, { query: { ...asked, limit: PAGE, cursor }, signal }),
      this.page.api.send("GET", "counts", undefined, { query: this.page.scope, signal }),
    ]);
    return { ...found, counts };
  }

  #show({ items, hits, cursor = null, counts, degraded = [] }) {
    const cards = (hits ?? items).map((each) => card(this.page, hits ? each.memory : each, { hit: hits && each }));
    const isFiltered = tellFilters() > 0;
    this.#next = cursor;
    this.list.replaceChildren(...cards);
    if (!cards.length) this.list.append(empty(Boolean(hits) || isFiltered));
    byId("found-note").textContent = hits ? foundNote(hits, degraded) : listNote(counts, isFiltered);
    byId("pages").hidden = this.#cursors.length === 1 && !cursor;
    byId("newer").disabled = this.#cursors.length === 1;
    byId("older").disabled = !cursor;
    byId("page-number").textContent = `Page ${this.#cursors.length}`;
    byId("memories").scrollTop = 0;
  }

  #clear() {
    for (const name of FILTERS) byId(name).value = "";
    this.first();
  }

  /** Show the memories of some days. @param {string} from @param {string} to */
  #period(from, to) {
    byId("query").value = "";
    this.#setFilters({ from, to });
    this.page.show("memories");
    this.first();
  }

  #setFilters(values) {
    for (const name of FILTERS) byId(name).value = values[name] ?? "";
    byId("filters").open = true;
  }
}

/** What the filters ask for, as the API has it. */
function wanted() {
  const [kind, who, from, to, asOf, contains] = FILTERS.map((name) => byId(name).value.trim());
  const at = {};
  if (from) at.gte = midnight(from, 0);
  if (to) at.lt = midnight(to, 1);
  const filters = {};
  if (from || to) filters.at = at;
  if (contains) filters.text = { icontains: contains };
  if (who) filters.OR = [{ speaker: { icontains: who } }, { role: { icontains: who } }];
  return {
    ...(kind && { kinds: [kind] }),
    ...(asOf && { as_of: midnight(asOf, 1) }),
    ...(Object.keys(filters).length && { filters }),
  };
}

/** The instant at which a day begins here, or the one so many days later. @param {string} day */
function midnight(day, later) {
  const [year, month, date] = day.split("-").map(Number);
  return new Date(year, month - 1, date + later).toISOString();
}

/** Say how many filters are set; returns it. */
function tellFilters() {
  const set = FILTERS.filter((name) => byId(name).value.trim()).length;
  byId("filters-on").textContent = set ? String(set) : "";
  byId("filters-clear").hidden = !set;
  return set;
}

function foundNote(hits, degraded) {
  const isCut = hits.length === BEST;
  const words = isCut ? `The ${BEST} that fit best.` : `${counted(hits.length, "memory fits", "memories fit")}, best first.`;
  return degraded.length ? `${words} Only the words were compared: the model that compares meanings is away.` : words;
}

function listNote({ turns, facts }, isFiltered) {
  if (isFiltered) return "Those that fit the filters, newest first.";
  return turns + facts ? `${counted(turns, "message")} and ${counted(facts, "fact")}, newest first.` : "";
}

function empty(isNarrowed) {
  if (isNarrowed) return nothing("Nothing fits", "Try other words, or fewer filters.");
  const command = el("code", {}, "ollama-async-mem import FILE --user NAME");
  return nothing("Nothing is remembered yet", "Say something in the chat, or bring conversations along with ", command, ".");
}

