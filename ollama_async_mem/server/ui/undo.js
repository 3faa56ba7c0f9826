/**
 * Deleting with a way back. The server destroys at once, so the page waits with it while the undo is shown, and sends
 * it when the page is left.
 */
import { shownOf } from "./card.js";
import { byId, el, textButton } from "./dom.js";

const WAIT_MS = 6000;

export class Undo {
  /** @type {Map<string, {timer: number, toast: HTMLElement}>} */
  #leaving = new Map();

  /** @param {any} page */
  constructor(page) {
    this.page = page;
    addEventListener("pagehide", () => [...this.#leaving.keys()].forEach((id) => this.#destroy(id, true)));
  }

  /** @param {string} id whether it is about to be deleted */
  isLeaving(id) {
    return this.#leaving.has(id);
  }

  /** Delete a memory soon, unless that is undone. @param {any} memory */
  remove(memory) {
    if (this.isLeaving(memory.id)) return;
    const what = memory.kind === "fact" ? "Fact deleted." : "Message deleted, with what was learned from it alone.";
    const toast = el("div", { className: "toast" }, el("span", {}, what), textButton("Undo", () => this.undo(memory.id), "link"));
    this.#leaving.set(memory.id, { timer: setTimeout(() => this.#destroy(memory.id), WAIT_MS), toast });
    moveFocus(memory.id);
    this.#show(memory.id, false);
    byId("toasts").append(toast);
  }

  /** Take back the last deletion, or that of one memory. @param {string} [id] */
  undo(id = [...this.#leaving.keys()].pop()) {
    if (id === undefined || !this.#forget(id)) return;
    this.#show(id, true);
    shownOf(id).find((shown) => shown.offsetParent)?.querySelector("button")?.focus();
  }

  #show(id, isShown) {
    for (const shown of shownOf(id)) shown.hidden = !isShown;
  }

  #forget(id) {
    const leaving = this.#leaving.get(id);
    if (!leaving) return false;
    clearTimeout(leaving.timer);
    leaving.toast.remove();
    return this.#leaving.delete(id);
  }

  async #destroy(id, keepalive = false) {
    const { toast } = this.#leaving.get(id) ?? {};
    toast?.remove();
    try {
      await this.page.api.send("DELETE", `memories/${encodeURIComponent(id)}`, undefined, { keepalive });
    } catch (error) {
      if (error.status !== 404) {
        this.#forget(id);
        this.#show(id, true);
        return this.page.say(`Not deleted. ${error.message}`);
      }
    }
    this.#forget(id);
    for (const shown of shownOf(id)) shown.remove();
    this.page.bus.tell("gone", id);
  }
}

/** Keep the focus in the list when the card that has it goes. */
function moveFocus(id) {
  const going = shownOf(id).find((shown) => shown.contains(document.activeElement));
  if (!going) return;
  const next = going.nextElementSibling ?? going.previousElementSibling;
  (next?.querySelector("button") ?? going.closest('[role="tabpanel"]'))?.focus();
}
