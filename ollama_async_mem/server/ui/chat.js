/** Asking, and the answer as it streams in. */
import { byId, counted, el, icon, textButton } from "./dom.js";
import { Problem } from "./api.js";
import { Answer, Log } from "./log.js";
import { welcome } from "./welcome.js";

const CONTEXT = 12; // messages that go with a question
const STILL_ON_MS = 3600 * 1000; // a conversation goes on that long after its last word

export class Chat {
  /** @type {AbortController|null} */ #asking = null;
  /** @type {{role: string, content: string}[]} */ #said = [];
  #isOpen = false;
  #isWaiting = false; // a message waits until it is known whose conversation this is

  /** @param {any} page */
  constructor(page) {
    this.page = page;
    this.log = new Log(page);
    this.words = byId("words");
    byId("composer").addEventListener("submit", (event) => this.#onSubmit(event));
    this.words.addEventListener("keydown", (event) => this.#onKey(event));
    byId("fresh").addEventListener("click", () => this.fresh());
    page.bus.on("scope", () => this.#open());
    page.bus.on("memory", (event) => event.type === "memory_updated" && this.log.rewrite(event.memory));
    page.bus.on("changed", (memory) => this.log.rewrite(memory));
    page.bus.on("config", () => this.#allow());
  }

  get isAsking() {
    return this.#asking !== null;
  }

  /** Begin a new conversation. What was said stays in the memory. */
  fresh() {
    this.stop();
    this.#said = [];
    this.log.clear();
    this.#welcomeIfEmpty();
    this.words.focus();
  }

  /** Stop the answer. It is not remembered, as it is not whole. */
  stop() {
    this.#asking?.abort();
  }

  /** Say something, and show the answer as it comes. @param {string} text */
  async ask(text) {
    byId("welcome").hidden = true;
    const question = this.log.add({ role: "user", text });
    const answer = new Answer(this.log.add({ role: "assistant", text: "" }), () => this.log.follow());
    const asking = (this.#asking = new AbortController());
    this.#showBusy();
    this.log.toEnd();
    this.page.bus.tell("asked", { text });
    const exchange = { text, question, answer, said: this.#said, signal: asking.signal };
    try {
      await this.#stream(exchange);
    } catch (error) {
      this.#failed(error, exchange);
    } finally {
      if (this.#asking === asking) this.#asking = null;
      answer.end();
      this.#showBusy();
    }
  }

  async #open() {
    this.stop();
    this.#said = [];
    this.#isOpen = false;
    byId("welcome").hidden = true;
    try {
      const turns = await this.log.open();
      if (!turns) return; // by now it is another scope
      this.#said.unshift(...turns.filter(isStillOn).reverse().map(({ role, text }) => ({ role, content: text })));
      this.#welcomeIfEmpty();
    } catch (error) {
      this.page.say(error.message);
    }
    this.#isOpen = true;
    if (this.#isWaiting) byId("composer").requestSubmit();
  }

  async #stream(exchange) {
    const { text, answer, said, signal } = exchange;
    const messages = [...said, { role: "user", content: text }].slice(-CONTEXT);
    const remember = byId("remember").checked;
    const body = { messages, ...this.page.scope, explain: true, remember };
    for await (const event of this.page.api.stream("POST", "chat", { body, signal })) {
      if (event.event === "recalled") this.#recalled(event.hits, text, answer);
      else if (event.event === "token") answer.write(event.text);
      else if (event.event === "error") throw new Problem(event.problem);
      else this.#done(event, exchange, remember);
    }
  }

  #recalled(hits, question, answer) {
    const recalled = { hits, question };
    const show = () => {
      this.page.bus.tell("recalled", recalled);
      this.page.show("recall");
    };
    this.page.bus.tell("recalled", recalled);
    if (hits.length) answer.note(textButton(`Recalled ${counted(hits.length, "memory", "memories")}`, show, "chip"));
  }

  #done({ turn_ids: ids, error, job_id: job }, exchange, remember) {
    const { question, answer } = exchange;
    keep(exchange);
    if (ids.length === 2) [question.dataset.id, answer.element.dataset.id] = ids;
    if (error) answer.note(badChip(`Not remembered: ${error}`));
    else if (!remember) answer.note(el("span", { className: "chip plain" }, "Not remembered"));
    this.page.bus.tell("answered", { job });
  }

  #failed(error, exchange) {
    const { answer, signal } = exchange;
    if (signal.aborted) {
      if (answer.text) keep(exchange);
      return answer.note(el("span", { className: "chip plain" }, "Stopped, so it is not remembered"));
    }
    if (!(error instanceof Problem)) throw error;
    this.page.bus.tell("failed", error);
    answer.note(badChip(error.message));
    if (error.kind === "model-not-found") answer.note(textButton("Open the models", () => this.page.show("models"), "chip"));
    answer.note(textButton("Try again", () => this.#again(exchange), "chip"));
  }

  #again({ text, question, answer }) {
    if (this.isAsking) return;
    question.remove();
    answer.element.remove();
    this.ask(text);
    this.words.focus();
  }

  #onSubmit(event) {
    event.preventDefault();
    if (this.isAsking) return this.stop();
    const text = this.words.value.trim();
    this.#isWaiting = !this.#isOpen;
    if (!text || this.#isWaiting) return;
    this.#write("");
    this.ask(text);
  }

  #onKey(event) {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    if (!this.isAsking) byId("composer").requestSubmit();
  }

  #allow() {
    byId("remember").disabled = !this.page.may.write;
    byId("remember").checked &&= this.page.may.write;
  }

  #showBusy() {
    const button = byId("send");
    const label = this.isAsking ? "Stop" : "Send";
    button.setAttribute("aria-label", label);
    button.title = this.isAsking ? "Stop (Esc)" : "Send (Enter)";
    button.replaceChildren(icon(label.toLowerCase()));
  }

  #welcomeIfEmpty() {
    if (!this.log.isEmpty) return;
    byId("welcome").replaceChildren(...welcome(this.page, (text) => this.#write(text)));
    byId("welcome").hidden = false;
  }

  #write(text) {
    this.words.value = text;
    this.words.focus();
  }
}

/** It was said: the next question of the same conversation comes after it. */
function keep({ text, answer, said }) {
  said.push({ role: "user", content: text }, { role: "assistant", content: answer.text });
}

const isStillOn = ({ at }) => Date.now() - new Date(at).getTime() < STILL_ON_MS;
const badChip = (text) => el("span", { className: "chip bad", role: "alert" }, text);
