/** The tabs and the keyboard: what each key does is said once, here, and shown by "?". */
import { byId, el, isField } from "./dom.js";

const WIDE = matchMedia("(min-width: 900px)");

/** @param {any} page */
export function setUpTabs(page) {
  const tabs = () => [...document.querySelectorAll('[role="tab"]')].filter((tab) => tab.offsetParent);
  for (const tab of document.querySelectorAll('[role="tab"]')) {
    tab.addEventListener("click", () => page.show(tab.dataset.view));
    tab.addEventListener("keydown", (event) => onTabKey(event, tabs()));
  }
  WIDE.addEventListener("change", () => page.show(document.body.dataset.view));
  byId("status").addEventListener("click", () => page.show("models"));
}

/** Show a view. Beside a chat that has room, it is one of the others. @param {string} view */
export function showView(view) {
  const beside = WIDE.matches && view === "chat" ? (currentPanel() ?? "recall") : view;
  document.body.dataset.view = view;
  for (const tab of document.querySelectorAll('[role="tab"]')) {
    const isOn = tab.dataset.view === beside;
    tab.setAttribute("aria-selected", String(isOn));
    tab.tabIndex = isOn ? 0 : -1;
    if (tab.dataset.view !== "chat") byId(tab.dataset.view).hidden = !isOn;
  }
}

const currentPanel = () => document.querySelector(".panel:not([hidden])")?.id;

function onTabKey(event, tabs) {
  const at = tabs.indexOf(event.currentTarget);
  const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: tabs.length - 1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  const tab = tabs[(to + tabs.length) % tabs.length];
  tab.focus();
  tab.click();
}

/** @param {any} page @param {any} chat @param {any} scopes */
export function setUpShortcuts(page, chat, scopes) {
  const shortcuts = [
    ["?", "Show these shortcuts", () => byId("help").showModal()],
    ["/", "Search the memories", () => focusOn(page, "memories", "query")],
    ["i", "Write a message", () => focusOn(page, "chat", "words")],
    ["n", "New chat", () => (page.show("chat"), chat.fresh())],
    ["s", "Switch whose memory it is", () => scopes.open()],
    ["r", "What was recalled", () => focusOn(page, "recall", "recall")],
    ["t", "Timeline", () => focusOn(page, "timeline", "timeline")],
    ["m", "Models", () => focusOn(page, "models", "models")],
    ["z", "Undo the last deletion", () => page.undo.undo()],
  ];
  byId("shortcuts").append(...shortcuts.flatMap(([key, words]) => row(key, words)), ...row("Esc", "Stop the answer, leave a field, close a dialog"));
  byId("help-open").addEventListener("click", () => byId("help").showModal());
  document.addEventListener("keydown", (event) => onKey(event, shortcuts, chat));
}

const row = (key, words) => [el("dt", {}, el("kbd", {}, key)), el("dd", {}, words)];

function onKey(event, shortcuts, chat) {
  if (document.querySelector("dialog[open]") || event.defaultPrevented) return;
  if (event.key === "Escape") return onEscape(chat);
  if (event.ctrlKey || event.metaKey || event.altKey || isField(event.target)) return;
  const found = shortcuts.find(([key]) => key === event.key);
  if (!found) return;
  event.preventDefault();
  found[2]();
}

function onEscape(chat) {
  if (chat.isAsking) chat.stop();
  else if (isField(document.activeElement)) document.activeElement.blur();
}

function focusOn(page, view, id) {
  page.show(view);
  byId(id).focus();
}
