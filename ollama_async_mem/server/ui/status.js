/** Whether the server and Ollama answer: said where they do not, and looked at again until they do. */
import { byId } from "./dom.js";

const UP_MS = 20_000;
const DOWN_MS = 2_000;
const NAMES = { ollama: "Ollama", server: "Server", store: "Store" };
const WORDS = {
  ollama: "Ollama does not answer. Start it with “ollama serve”: this page goes on by itself once it is there.",
  server: "The server does not answer. This page goes on by itself once it is back.",
  store: "The store does not answer: its disk may be full, or another program holds it. The log of the server says more.",
};

export class Status {
  #timer = 0;
  /** @type {string|null} what is away; undefined before it was looked at */ #away;

  /** @param {any} page */
  constructor(page) {
    this.page = page;
    page.bus.on("failed", (error) => this.#onFailed(error));
    page.bus.on("config", () => this.#tell());
    document.addEventListener("visibilitychange", () => document.hidden || this.check());
    addEventListener("online", () => this.check());
  }

  /** Look whether all is there, now and again later. */
  async check() {
    const ready = await this.page.api.readiness();
    this.#set(ready ? (ready.store ? (ready.ollama ? null : "ollama") : "store") : "server");
  }

  /** What just failed is told at once, and looked at again. */
  #onFailed({ isAway, isOllamaAway }) {
    if (isAway || isOllamaAway) this.#set(isAway ? "server" : "ollama");
  }

  #set(away) {
    const isNew = away !== this.#away;
    this.#away = away;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => document.hidden || this.check(), away ? DOWN_MS : UP_MS);
    if (!isNew) return;
    this.#tell();
    this.page.bus.tell("ollama", !away);
  }

  #tell() {
    byId("banner").textContent = this.#away ? WORDS[this.#away] : "";
    byId("status").dataset.state = this.#away === undefined ? "unknown" : this.#away ? "down" : "up";
    const model = this.page.config?.llm?.model ?? "no chat model";
    byId("status-text").textContent = this.#away ? `${NAMES[this.#away]} away` : model;
  }
}
