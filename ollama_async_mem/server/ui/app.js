/** The page as a whole: makes its parts, and lets them know of each other. */
import { Api, Problem } from "./api.js";
import { Bus } from "./bus.js";
import { Chat } from "./chat.js";
import { keepFresh } from "./dates.js";
import { byId, el } from "./dom.js";
import { watch } from "./events.js";
import { setUpShortcuts, setUpTabs, showView } from "./keys.js";
import { Models } from "./models.js";
import { setUpRecall } from "./recall.js";
import { Scopes } from "./scopes.js";
import { Memories } from "./search.js";
import { Status } from "./status.js";
import { Timeline } from "./timeline.js";
import { Undo } from "./undo.js";

const SAID_MS = 5000;
const AGAIN_MS = 2000;

/** What all parts work with. */
class Page {
  bus = new Bus();
  api = new Api(() => askForKey(this.api));
  undo = new Undo(this);
  /** @type {{user_id?: string, agent_id?: string, run_id?: string}} whose memory is shown */
  scope = {};
  /** @type {any} what the server works with, and who asks */
  config = null;

  /** What the key allows. */
  get may() {
    const { you, may_change: change } = this.config;
    return { write: you.may_write, admin: you.admin, change };
  }

  /** Show a view. @param {string} view */
  show(view) {
    showView(view);
    this.bus.tell("view", view);
  }

  /** Say something for a moment. @param {string} text */
  say(text) {
    const toast = el("div", { className: "toast" }, text);
    byId("toasts").append(toast);
    setTimeout(() => toast.remove(), SAID_MS);
  }

  /** Take what the server works with. @param {any} config */
  configured(config) {
    this.config = config;
    this.bus.tell("config", config);
  }
}

/** @type {Promise<void>|null} */ let asking = null;

/** Ask for a key, once for all who need it. @param {Api} api */
function askForKey(api) {
  asking ??= new Promise((given) => {
    byId("key-note").textContent = api.hasKey ? "That key is wrong or was revoked." : "";
    byId("key").showModal();
    byId("key-form").onsubmit = (event) => {
      event.preventDefault();
      api.useKey(byId("key-field").value.trim());
      byId("key").close();
      asking = null;
      given();
    };
  });
  return asking;
}

async function start() {
  const page = new Page();
  const chat = new Chat(page), scopes = new Scopes(page), status = new Status(page);
  new Memories(page);
  new Timeline(page);
  new Models(page);
  setUpRecall(page);
  setUpTabs(page);
  setUpShortcuts(page, chat, scopes);
  watch(page);
  keepFresh();
  byId("key").addEventListener("cancel", (event) => event.preventDefault());
  showView("chat");
  status.check();
  await begin(page, scopes);
  if (matchMedia("(hover: hover)").matches) byId("words").focus();
}

/** Ask what the server works with and whose memories there are, until it answers. */
async function begin(page, scopes) {
  for (;;) {
    try {
      page.configured(await page.api.get("configuration"));
      return await scopes.first();
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      if (!error.isAway) page.say(error.message);
      await new Promise((go) => setTimeout(go, AGAIN_MS));
    }
  }
}

start();
