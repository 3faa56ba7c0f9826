/** Whose memory is shown: chosen among those that there are, or written down. */
import { agoOf } from "./dates.js";
import { byId, counted, el } from "./dom.js";

const STORED = "ollama-async-mem scope";
const PAGE = 100;
const FIELDS = { user_id: "scope-user", agent_id: "scope-agent", run_id: "scope-run" };

export class Scopes {
  /** @type {any} */ #after = null;

  /** @param {any} page */
  constructor(page) {
    this.page = page;
    this.dialog = byId("scopes");
    byId("scope").addEventListener("click", () => this.open());
    byId("scope-form").addEventListener("submit", (event) => this.#onSubmit(event));
    byId("scopes-more").addEventListener("click", () => this.#more());
  }

  /** The scope of the last visit, else that of the newest memory, else one to begin with. */
  async first() {
    const own = this.page.config.you;
    const stored = storedScope();
    if (stored && (!own.user_id || stored.user_id === own.user_id)) return this.#use(stored);
    if (own.user_id || own.agent_id) return this.#use(clean({ user_id: own.user_id, agent_id: own.agent_id }));
    const scopes = await this.page.api.get("scopes", { limit: PAGE });
    const newest = scopes.reduce((best, each) => (!best || each.newest > best.newest ? each : best), null)?.scope;
    this.#use(newest?.user_id ? { user_id: newest.user_id } : newest ? clean(newest) : { user_id: "me" });
  }

  /** Show the choice. */
  async open() {
    for (const [name, id] of Object.entries(FIELDS)) byId(id).value = this.page.scope[name] ?? "";
    const own = this.page.config.you;
    byId("scope-user").disabled = Boolean(own.user_id);
    byId("scope-agent").disabled = Boolean(own.agent_id);
    byId("scope-list").replaceChildren();
    this.#after = null;
    this.dialog.showModal();
    await this.#more();
  }

  async #more() {
    try {
      const scopes = await this.page.api.get("scopes", { limit: PAGE, after: this.#after });
      this.#after = scopes.at(-1)?.scope ?? null;
      byId("scopes-more").hidden = scopes.length < PAGE;
      byId("scope-list").append(...this.#rows(scopes));
      const isEmpty = !byId("scope-list").children.length;
      byId("scopes-note").textContent = isEmpty ? "Nobody has memories yet. Write a name, and begin." : "";
    } catch (error) {
      byId("scopes-note").textContent = error.message;
    }
  }

  /** A row for each scope; one that stands for several, as it is all of a user, comes before them. */
  #rows(scopes) {
    const rows = [];
    for (const { scope, turns, facts, newest } of scopes) {
      const { user_id: user } = scope;
      const isOneOfSeveral = user && scopes.filter((other) => other.scope.user_id === user).length > 1;
      const isTold = [...byId("scope-list").children, ...rows].some((row) => row.dataset.user === user);
      if (isOneOfSeveral && !isTold) rows.push(this.#row({ user_id: user }, "all conversations"));
      if (!isOneOfSeveral || scope.agent_id || scope.run_id) {
        rows.push(this.#row(clean(scope), `${counted(turns, "message")}, ${counted(facts, "fact")}`, newest));
      }
    }
    return rows;
  }

  #row(scope, words, newest) {
    const isCurrent = nameOf(scope) === nameOf(this.page.scope);
    const about = [el("b", {}, nameOf(scope)), el("span", { className: "quiet" }, words), newest && agoOf(newest)];
    const button = el("button", { type: "button", "aria-current": String(isCurrent) }, ...about);
    button.addEventListener("click", () => this.#use(scope));
    return el("li", { "data-user": scope.user_id ?? "" }, button);
  }

  #onSubmit(event) {
    event.preventDefault();
    const written = Object.fromEntries(Object.entries(FIELDS).map(([name, id]) => [name, byId(id).value.trim()]));
    const scope = clean(written);
    if (Object.keys(scope).length) this.#use(scope);
    else byId("scopes-note").textContent = "Write a user, an agent or a conversation.";
  }

  #use(scope) {
    this.dialog.close();
    localStorage.setItem(STORED, JSON.stringify(scope));
    this.page.scope = scope;
    byId("scope-name").textContent = nameOf(scope);
    this.page.bus.tell("scope", scope);
  }
}

const nameOf = ({ user_id: user, agent_id: agent, run_id: run }) =>
  [user, agent && `with ${agent}`, run && `in ${run}`].filter(Boolean).join(" ");
const clean = (scope) => Object.fromEntries(Object.entries(scope).filter(([, value]) => value));

function storedScope() {
  try {
    const stored = clean(JSON.parse(localStorage.getItem(STORED) ?? "{}"));
    return Object.keys(stored).length ? stored : null;
  } catch {
    return null;
  }
}
