/**
 * What the parts of the page tell each other:
 * `config` (what the server works with), `scope` (whose memory it is now), `view` (what is shown), `memory` (an event
 * of the server), `lost` (some are missing), `changed` and `gone` (a memory that was edited or deleted here), `asked`,
 * `recalled` and `answered` (a chat), `period` (days to look at), `ollama` (whether it answers), `failed` (a problem).
 */
export class Bus {
  #target = new EventTarget();

  /** @param {string} name @param {(detail: any) => void} listener */
  on(name, listener) {
    this.#target.addEventListener(name, (event) => listener(/** @type {CustomEvent} */ (event).detail));
  }

  /** @param {string} name @param {any} [detail] */
  tell(name, detail) {
    this.#target.dispatchEvent(new CustomEvent(name, { detail }));
  }
}
