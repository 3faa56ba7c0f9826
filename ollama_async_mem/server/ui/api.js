/**
 * What the server is asked, and how its failures are told. Owns the key, which lives in this tab alone.
 * Knows nothing of the page.
 */

const ROOT = new URL("../", import.meta.url); // this module lies in ui/: so it works behind any base path
const KEY = "ollama-async-mem key";

/** A failure as the server tells it, or that it cannot be reached (`status` 0). */
export class Problem extends Error {
  /** @param {{status: number, type?: string, title: string, detail?: string}} told */
  constructor(told) {
    super([told.title, told.detail].filter(Boolean).join(". ").replace(/\.\./g, "."));
    this.status = told.status;
    this.kind = (told.type ?? "").split(":").pop();
  }

  get isAway() {
    return this.status === 0;
  }

  get isOllamaAway() {
    return this.kind === "ollama-unreachable";
  }
}

/** Asks the server. `onUnauthorized` is awaited when it wants a key, and then it is asked again. */
export class Api {
  /** @param {() => Promise<void>} onUnauthorized */
  constructor(onUnauthorized) {
    this.onUnauthorized = onUnauthorized;
  }

  /** @param {string} path @param {Object<string, any>} [query] what is undefined, null or "" is left out */
  async get(path, query = {}) {
    return (await this.ask("GET", path, { query })).json();
  }

  /** @param {string} method @param {string} path @param {any} [body] @param {Object} [options] */
  async send(method, path, body, options = {}) {
    const answer = await this.ask(method, path, { body, ...options });
    return answer.status === 204 ? null : answer.json();
  }

  /**
   * Give the events of a stream as they come. Leaving the loop, or aborting, closes the connection.
   * @param {string} method @param {string} path
   * @param {{body?: any, query?: Object<string, any>, signal?: AbortSignal, onOpen?: () => void}} options
   */
  async *stream(method, path, { onOpen, ...options }) {
    const answer = await this.ask(method, path, { ...options, accept: "application/x-ndjson" });
    onOpen?.();
    try {
      yield* lines(answer.body);
    } catch (error) {
      throw options.signal?.aborted ? error : away();
    }
  }

  /** @returns {Promise<Response>} one that succeeded */
  async ask(method, path, options = {}) {
    const key = sessionStorage.getItem(KEY);
    const answer = await fetched(method, path, options);
    if (answer.status === 401 && !options.keepalive) {
      if (key === sessionStorage.getItem(KEY)) await this.onUnauthorized(); // else another was given meanwhile
      return this.ask(method, path, options);
    }
    if (!answer.ok) throw new Problem(await problemOf(answer));
    return answer;
  }

  /** @param {string} key */
  useKey(key) {
    sessionStorage.setItem(KEY, key);
  }

  get hasKey() {
    return Boolean(sessionStorage.getItem(KEY));
  }

  /** Whether the store and Ollama answer; null where the server does not. */
  async readiness() {
    try {
      const answer = await (await fetched("GET", "../../readyz")).json();
      return "ollama" in answer ? answer : { store: true, ollama: true }; // why it refuses is told elsewhere
    } catch {
      return null;
    }
  }
}

async function fetched(method, path, options = {}) {
  const { query = {}, body, accept = "application/json", signal, keepalive = false } = options;
  const headers = { accept };
  const key = sessionStorage.getItem(KEY);
  if (key) headers.authorization = `Bearer ${key}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  const init = { method, headers, signal, keepalive, body: body === undefined ? undefined : JSON.stringify(body) };
  try {
    return await fetch(addressOf(path, query), init);
  } catch (error) {
    throw signal?.aborted ? error : away();
  }
}

function addressOf(path, query) {
  const address = new URL(`api/v1/${path}`, ROOT);
  for (const [name, value] of Object.entries(query)) {
    if (value === undefined || value === null || value === "") continue;
    for (const each of Array.isArray(value) ? value : [value]) {
      address.searchParams.append(name, typeof each === "object" ? JSON.stringify(each) : String(each));
    }
  }
  return address;
}

const away = () => new Problem({ status: 0, title: "The server does not answer" });

async function problemOf(answer) {
  try {
    return await answer.json();
  } catch {
    return { status: answer.status, title: answer.statusText || "This could not be done" };
  }
}

/** The values of a stream with one in each line; empty lines are signs of life. @param {ReadableStream} body */
async function* lines(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const whole = (rest + value).split("\n");
      rest = whole.pop() ?? "";
      for (const line of whole) if (line) yield JSON.parse(line);
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}
