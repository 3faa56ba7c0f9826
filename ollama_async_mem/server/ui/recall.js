/** What an answer recalled and why, and the facts as they arrive. */
import { card, nothing, refresh, shownOf } from "./card.js";
import { byId, counted } from "./dom.js";

const NEWEST = 10;
const MOST_SHOWN = 50;
const LONGEST_MS = 300_000; // then nobody says any more that it is read: another process may do it

/** @param {any} page */
export function setUpRecall(page) {
  const { bus } = page;
  const reading = new Reading();
  bus.on("scope", () => Promise.all([showRecalled(page, null), showNewest(page, reading)]));
  bus.on("asked", () => showWaiting());
  bus.on("recalled", (recalled) => showRecalled(page, recalled));
  bus.on("answered", ({ job }) => job && reading.begin(job));
  bus.on("lost", () => showNewest(page, reading));
  bus.on("memory", (event) => onEvent(page, reading, event));
}

function showWaiting() {
  byId("recalled").replaceChildren();
  byId("recall-note").textContent = "Looking through the memory …";
}

function showRecalled(page, recalled) {
  const list = byId("recalled"), note = byId("recall-note");
  const hits = recalled?.hits ?? [];
  note.textContent = hits.length ? `“${shortened(recalled.question)}”: ${counted(hits.length, "memory", "memories")}, best first.` : "";
  list.replaceChildren(...hits.map((hit) => card(page, hit.memory, { hit })));
  if (!recalled) list.append(nothing("Nothing asked yet", "What the model is given to remember for an answer stands here, and why."));
  else if (!hits.length) list.append(nothing("Nothing fitted", "The model answered without memories."));
}

const shortened = (text) => (text.length > 80 ? `${text.slice(0, 79)}…` : text);

async function showNewest(page, reading) {
  const list = byId("learned"), scope = page.scope;
  reading.reset();
  try {
    const found = await page.api.get("memories", { ...scope, kinds: "fact", sort: "-created_at", limit: NEWEST });
    if (scope !== page.scope) return;
    list.replaceChildren(...found.items.map((fact) => card(page, fact)));
    if (!found.items.length) list.append(nothing("No facts yet", "The model reads along behind, and notes here what it learns."));
  } catch (error) {
    byId("learned-note").textContent = error.message;
  }
}

async function onEvent(page, reading, event) {
  if (event.type === "fact_added") showFact(page, event.fact);
  else if (event.type === "fact_superseded") await showSuperseded(page, event);
  else if (event.type === "memory_updated") refresh(page, event.memory);
  else if (event.type === "memory_deleted") shownOf(event.memory_id).forEach((shown) => shown.remove());
  else if (event.type === "job_done") reading.end(event.job_id);
  else if (event.type === "job_failed") reading.fail(event);
}

function showFact(page, fact, replacedBy = null) {
  const list = byId("learned");
  list.querySelector(".nothing")?.remove();
  if (!list.querySelector(`[data-id="${CSS.escape(fact.id)}"]`)) {
    const made = card(page, fact);
    made.classList.add("new");
    list.prepend(made);
  }
  refresh(page, fact, replacedBy);
  while (list.children.length > MOST_SHOWN) list.lastElementChild.remove();
}

/** The old fact stays in sight, struck through, below what holds now. */
async function showSuperseded(page, { fact_id: id, by }) {
  const read = (memoryId) => page.api.get(`memories/${encodeURIComponent(memoryId)}`).catch(() => null);
  const [old, now] = await Promise.all([read(id), by && read(by)]);
  if (!old) return;
  showFact(page, old, now);
  const shown = (memory) => memory && byId("learned").querySelector(`[data-id="${CSS.escape(memory.id)}"]`);
  shown(now)?.after(shown(old));
}

/** Which extractions are still awaited, in words. What one says may come before it is known here that it began. */
class Reading {
  #jobs = new Set();
  #ended = new Set();

  begin(job) {
    if (this.#ended.delete(job)) return;
    this.#jobs.add(job);
    byId("learned-note").textContent = "";
    this.#tell();
    setTimeout(() => this.end(job), LONGEST_MS);
  }

  end(job) {
    if (!this.#jobs.delete(job)) this.#ended.add(job);
    this.#tell();
  }

  fail({ job_id: job, error, is_final: isFinal }) {
    byId("learned-note").textContent = isFinal
      ? `The model could not read this for facts: ${error}`
      : "The model is not there to read this for facts yet; it is tried again.";
    this.end(job);
  }

  reset() {
    this.#jobs.clear();
    this.#ended.clear();
    byId("learned-note").textContent = "";
    this.#tell();
  }

  #tell() {
    byId("reading").textContent = this.#jobs.size ? "reading along …" : "";
  }
}
