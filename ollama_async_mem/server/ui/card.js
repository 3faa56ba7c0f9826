/** A memory as a card: what it says, when and who said it, its history, and how it is changed or deleted. */
import { agoOf, timeOf } from "./dates.js";
import { el, iconButton, textButton } from "./dom.js";

const ROLES = { user: "You", assistant: "Assistant" };
const REASONS = {
  dense: "similar meaning",
  keyword: "same words",
  neighbours: "said next to a match",
  speaker: "about who is named",
  statement: "states something",
  dates: "the days in question",
  recency: "recent",
  ranked: "ranked before",
  reranked: "judged a good fit",
};
const MOST = 2.5; // what a part of a score comes to at most, about
const TELLING = 0.1, LEAST = 0.01; // from where a part is named at first sight, and at all

/** @param {any} memory */
export const speakerOf = (memory) => memory.speaker || ROLES[memory.role] || memory.role;

/** All elements that show a memory. @param {string} id @returns {HTMLElement[]} */
export const shownOf = (id) => [...document.querySelectorAll(`[data-id="${CSS.escape(id)}"]`)];

/**
 * @param {any} page @param {any} memory
 * @param {{hit?: any}} [options] the hit, where it was found
 * @returns {HTMLLIElement}
 */
export function card(page, memory, { hit } = {}) {
  const made = el("li", { className: "card", "data-id": memory.id, hidden: page.undo.isLeaving(memory.id) });
  fill(page, made, memory, hit);
  return made;
}

/** Show a memory as it is now, wherever it is shown as a card. @param {any} page @param {any} memory */
export function refresh(page, memory, replacedBy = null) {
  for (const made of shownOf(memory.id)) {
    if (made.classList.contains("card")) fill(page, made, memory, null, replacedBy);
  }
}

function fill(page, made, memory, hit, replacedBy = null) {
  const past = Boolean(memory.valid_to);
  made.classList.toggle("past", past);
  made.classList.toggle("fact", memory.kind === "fact");
  const text = el(past ? "del" : "p", { className: "text" }, memory.text);
  const quote = memory.quote && memory.quote !== memory.text && el("p", { className: "quote" }, `“${memory.quote}”`);
  const until = past && el("p", { className: "until" }, "No longer holds since ", timeOf(memory.valid_to), replacedBy && `: ${replacedBy.text}`);
  made.replaceChildren(...[head(page, made, memory, hit), text, quote, until, hit && why(hit)].filter(Boolean));
}

function head(page, made, memory, hit) {
  const kind = memory.kind === "fact" ? "Fact" : speakerOf(memory);
  const tools = el("span", { className: "tools" }, iconButton("history", "History", () => toggleHistory(page, made, memory)));
  if (page.may.write) {
    tools.append(iconButton("edit", "Edit", () => edit(page, made, memory)));
    tools.append(iconButton("delete", "Delete", () => page.undo.remove(memory)));
  }
  const score = hit && el("span", { className: "score", title: "How well it fits, from 0 to 100" }, String(Math.round(hit.score * 100)));
  return el("div", { className: "head" }, score, el("span", { className: "kind" }, kind), agoOf(memory.at), tools);
}

/** Why it was found, in words, with the figures behind them. */
function why(hit) {
  const parts = Object.entries(hit.parts).filter(([, value]) => value >= LEAST).sort(([, a], [, b]) => b - a);
  const telling = parts.filter(([name, value]) => value >= TELLING && name !== "statement").slice(0, 3);
  const words = telling.map(([name]) => REASONS[name] ?? name).join(", ") || "a little of everything";
  const rows = parts.map(([name, value]) => partRow(REASONS[name] ?? name, value));
  return el("details", { className: "why" }, el("summary", {}, `Why: ${words}`), el("ul", {}, ...rows));
}

function partRow(name, value) {
  const bar = el("progress", { max: MOST, value, "aria-hidden": "true" });
  return el("li", {}, el("span", {}, name), bar, el("span", { className: "number" }, value.toFixed(2)));
}

async function toggleHistory(page, made, memory) {
  const open = made.querySelector(".history");
  if (open) return open.remove();
  try {
    const events = await page.api.get(`memories/${encodeURIComponent(memory.id)}/history`);
    const rows = await Promise.all(events.map((event) => historyRow(page, event)));
    made.append(el("ol", { className: "history", "aria-label": "History" }, ...rows));
  } catch (error) {
    page.say(error.message);
  }
}

async function historyRow(page, event) {
  const by = event.by && (await page.api.get(`memories/${encodeURIComponent(event.by)}`).catch(() => null));
  const told = {
    added: ["Added", event.new && `: ${event.new}`],
    updated: event.new ? ["Changed from ", el("del", {}, event.old ?? ""), ` to ${event.new}`] : ["Changed"],
    reinforced: ["Said again"],
    superseded: ["No longer holds", by && `. Now: ${by.text}`],
    deleted: ["Deleted"],
  }[event.kind] ?? [event.kind];
  const cause = [event.actor && `by ${event.actor}`, event.cause].filter(Boolean).join(", ");
  return el("li", {}, agoOf(event.at), el("span", {}, ...told.filter(Boolean), cause && el("span", { className: "quiet" }, ` (${cause})`)));
}

function edit(page, made, memory) {
  if (made.querySelector("form")) return;
  const text = made.querySelector(".text");
  const field = el("textarea", { value: memory.text, rows: 2, "aria-label": "New text" });
  const note = el("p", { className: "note bad", role: "alert" });
  const close = () => {
    form.replaceWith(text);
    made.querySelector('[aria-label="Edit"]')?.focus();
  };
  const save = el("button", { className: "button filled" }, "Save");
  const form = el("form", { className: "edit" }, field, el("div", { className: "row" }, save, textButton("Cancel", close)), note);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    change(page, memory, field.value.trim(), note, close);
  });
  form.addEventListener("keydown", (event) => onEditKey(event, form, close));
  text.replaceWith(form);
  field.focus();
}

function onEditKey(event, form, close) {
  if (event.key === "Escape") {
    event.stopPropagation();
    close();
  } else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    form.requestSubmit();
  }
}

async function change(page, memory, text, note, close) {
  if (!text || text === memory.text) return close();
  try {
    const changed = await page.api.send("PATCH", `memories/${encodeURIComponent(memory.id)}`, { text });
    close();
    refresh(page, changed);
    page.bus.tell("changed", changed);
    page.say("Changed. The old text is in its history.");
  } catch (error) {
    note.textContent = error.message;
  }
}

/** What a list says while it is empty. @param {string} title @param {...(Node|string)} rest */
export function nothing(title, ...rest) {
  return el("li", { className: "nothing" }, el("b", {}, title), el("p", {}, ...rest));
}
