/** The models of the Ollama server: which are there and loaded, which one answers, and pulls with their progress. */
import { Problem } from "./api.js";
import { nothing } from "./card.js";
import { byId, el, textButton } from "./dom.js";

const GIGA = 1e9;

export class Models {
  /** @param {any} page */
  constructor(page) {
    this.page = page;
    byId("pull").addEventListener("submit", (event) => this.#onPull(event));
    page.bus.on("view", (view) => view === "models" && this.show());
    page.bus.on("ollama", (isUp) => isUp && !byId("models").hidden && this.show());
    page.bus.on("config", () => (byId("pull").hidden = !page.may.admin));
  }

  /** Ask for the models, and list them. */
  async show() {
    try {
      const [models, running] = await Promise.all([this.page.api.get("models"), this.page.api.get("models/running")]);
      const rows = models.map((model) => this.#row(model, running.find(({ name }) => name === model.name)));
      byId("model-list").replaceChildren(...rows);
      if (!rows.length) byId("model-list").append(nothing("No models yet", "Pull llama3.2 for the chat, and nomic-embed-text to find."));
      byId("models-note").textContent = this.#note(models);
    } catch (error) {
      this.page.bus.tell("failed", error);
      byId("models-note").textContent = error.message;
    }
  }

  get #chatModel() {
    return this.page.config.llm?.model ?? "";
  }

  #note(models) {
    if (!this.#chatModel) return "This memory has no chat model.";
    if (models.some(({ name }) => isSame(name, this.#chatModel))) return "";
    byId("pull-name").value ||= this.#chatModel;
    return `${this.#chatModel}, which is to answer in the chat, is not installed: pull it.`;
  }

  #row(model, running) {
    const { parameter_size: size, quantization_level: quantization } = model.details;
    const facts = [size, quantization, model.size && `${(model.size / GIGA).toFixed(1)} GB`].filter(Boolean).join(" · ");
    const head = el("div", { className: "head" }, el("b", {}, model.name), this.#marks(model, running));
    return el("li", { className: "card model" }, head, el("p", { className: "quiet" }, facts), this.#tools(model, running));
  }

  #marks(model, running) {
    const made = el("span", { className: "marks" });
    if (this.#isChat(model)) made.append(mark("answers in the chat"));
    if (this.#isEmbedder(model)) made.append(mark("finds memories"));
    if (running) made.append(mark(loadedWords(running)));
    return made;
  }

  #isChat({ name }) {
    return isSame(name, this.#chatModel);
  }

  #isEmbedder({ name }) {
    return isSame(name, this.page.config.embedder ?? "");
  }

  #tools(model, running) {
    const tools = el("div", { className: "row" });
    const { may } = this.page;
    if (may.change && !this.#isChat(model) && !this.#isEmbedder(model)) {
      tools.append(textButton("Answer with this", () => this.#use(model.name)));
    }
    if (may.admin) {
      const path = running ? "models/unload" : "models/load";
      const button = textButton(running ? "Unload" : "Load", () => this.#load(path, model.name, button));
      tools.append(button);
    }
    return tools.children.length ? tools : null;
  }

  async #use(name) {
    const change = { llm: { model: name } };
    await this.#try(async () => this.page.configured(await this.page.api.send("PATCH", "configuration", change)));
  }

  async #load(path, model, button) {
    button.disabled = true;
    button.textContent += " …";
    await this.#try(() => this.page.api.send("POST", path, { model }));
  }

  async #try(work) {
    try {
      await work();
    } catch (error) {
      this.page.say(error.message);
    }
    await this.show();
  }

  #onPull(event) {
    event.preventDefault();
    const name = byId("pull-name").value.trim();
    if (name) this.#pull(name);
  }

  async #pull(model) {
    const pulling = new AbortController();
    const row = new PullRow(model, () => pulling.abort());
    byId("pull-name").value = "";
    try {
      const asked = { body: { model }, signal: pulling.signal };
      for await (const event of this.page.api.stream("POST", "models/pull", asked)) {
        if (event.event === "error") throw new Problem(event.problem);
        if (event.event === "progress") row.tell(event.progress);
        else row.end(`${model} is here.`);
      }
      await this.show();
    } catch (error) {
      row.end(pulling.signal.aborted ? "Stopped. The next pull goes on from there." : error.message);
    }
  }
}

/** One pull: how far it is, and a way to stop it. */
class PullRow {
  constructor(model, onStop) {
    this.bar = el("progress", { "aria-label": `Pull of ${model}` });
    this.words = el("p", { className: "quiet", role: "status" }, "Asking for it …");
    this.stop = textButton("Stop", onStop);
    const below = el("div", { className: "row" }, this.words, el("span", { className: "grow" }), this.stop);
    this.row = el("li", { className: "card" }, el("div", { className: "head" }, el("b", {}, model)), this.bar, below);
    byId("pulls").prepend(this.row);
  }

  tell({ status, completed, total, bytes_per_s: speed }) {
    if (total) [this.bar.max, this.bar.value] = [total, completed];
    const left = speed > 0 && total > completed ? `, ${minutes((total - completed) / speed)} left` : "";
    this.words.textContent = total ? `${sized(completed)} of ${sized(total)}${left}` : status;
  }

  end(words) {
    this.words.textContent = words;
    this.bar.remove();
    this.stop.replaceWith(textButton("Close", () => this.row.remove()));
  }
}

const mark = (text) => el("span", { className: "mark" }, text);
const sized = (bytes) => (bytes >= GIGA ? `${(bytes / GIGA).toFixed(1)} GB` : `${Math.round(bytes / 1e6)} MB`);
const minutes = (seconds) => (seconds < 90 ? `${Math.ceil(seconds)} s` : `${Math.round(seconds / 60)} min`);
const isSame = (name, other) => other !== "" && withTag(name) === withTag(other);
const withTag = (name) => (name.split("/").pop().includes(":") ? name : `${name}:latest`);

function loadedWords({ size, size_vram: onGpu }) {
  const share = size ? Math.round((100 * onGpu) / size) : 0;
  return share ? `loaded, ${share} % on the GPU` : "loaded";
}
