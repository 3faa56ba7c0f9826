/** What an empty conversation says: that there is nothing yet, and how to begin. */
import { el, textButton } from "./dom.js";

const FIRST = [
  "I'm allergic to peanuts, and I like green tea.",
  "My sister Anna moved to Lisbon last week.",
  "I run on Tuesdays and read on Sundays.",
];

/** @param {any} page @param {(text: string) => void} suggest @returns {Node[]} */
export function welcome(page, suggest) {
  const whose = Object.values(page.scope).join(", ");
  return [
    el("img", { src: "ui/icon.svg", alt: "", width: 48, height: 48 }),
    el("h2", {}, "A chat that remembers"),
    el("p", {}, `Tell it something, and ask for it tomorrow. What you say is kept for “${whose}”, and what it recalls is always shown.`),
    el("div", { className: "suggestions" }, ...FIRST.map((text) => textButton(text, () => suggest(text), "suggestion"))),
    el("p", { className: "quiet" }, "Conversations from elsewhere come in with ", el("code", {}, "ollama-async-mem import FILE --user NAME"), "."),
  ];
}
