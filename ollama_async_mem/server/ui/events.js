/** What happens in the memory, as it happens: one stream for the scope that is shown, renewed when it breaks. */

const AGAIN_MS = [500, 1000, 2000, 5000];

/** @param {any} page */
export function watch(page) {
  let watching = new AbortController();
  page.bus.on("scope", () => {
    watching.abort();
    watching = new AbortController();
    follow(page, watching.signal);
  });
}

async function follow(page, signal) {
  for (let failures = 0; !signal.aborted; failures++) {
    let isAgain = failures > 0;
    const onOpen = () => {
      failures = 0;
      if (isAgain) page.bus.tell("lost");
      isAgain = false;
    };
    try {
      for await (const event of page.api.stream("GET", "events", { query: page.scope, signal, onOpen })) tell(page, event);
    } catch (error) {
      if (signal.aborted) return;
      page.bus.tell("failed", error);
    }
    await new Promise((go) => setTimeout(go, AGAIN_MS[Math.min(failures, AGAIN_MS.length - 1)]));
  }
}

function tell(page, event) {
  if (event.type === "events_lost") page.bus.tell("lost");
  else page.bus.tell("memory", event);
}
