// @ts-check
/**
 * Keeps the page new: one stream tells that something has changed, and parts with `hx-trigger="ring from:body"` fetch
 * themselves. A hidden tab has no stream.
 */

/** Milliseconds after which a lost connection is said. */
const PATIENCE_MS = 3000;
/** Milliseconds after which the server makes anew what many pages show. */
const SETTLE_MS = 1000;

/**
 * Say, or do, what follows when a part of the page cannot be fetched: what it shows stays.
 * @param {number} status
 */
function tell(status) {
  const lost = document.getElementById("lost");
  if (status === 401) {
    location.assign(`/login?next=${encodeURIComponent(location.pathname + location.search)}`);
  } else if (lost && (status === 404 || status === 410)) {
    lost.textContent = "This is not there any more: what is shown is how it was.";
    lost.hidden = false;
  }
}
document.addEventListener("htmx:response:error", (event) => {
  tell(/** @type {CustomEvent} */ (event).detail?.ctx?.response?.status ?? 0);
});

/** Follow what `<body data-kinds data-runs data-every>` names. */
export function followRings() {
  const { kinds = "", runs = "", every = "30" } = document.body.dataset;
  if (!kinds) return;
  const query = new URLSearchParams();
  for (const kind of kinds.split(" ")) query.append("kind", kind);
  for (const run of runs.split(" ").filter(Boolean)) query.append("run", run);
  const url = `/ring?${query}`;
  const lost = document.getElementById("lost");
  /** @type {EventSource | null} */ let stream = null;
  /** @type {number | undefined} */ let patience;
  /** @type {number | undefined} */ let again;
  let isLost = false;

  const ring = () => document.hidden || document.body.dispatchEvent(new CustomEvent("ring"));

  /** @param {boolean} now */
  function say(now) {
    isLost = now;
    if (!lost) return;
    lost.textContent = now ? "The server does not answer; what is shown may be old. Trying again…" : "";
    lost.hidden = !now;
  }

  function open() {
    if (stream) return;
    stream = new EventSource(url);
    stream.addEventListener("open", () => {
      clearTimeout(patience);
      patience = undefined;
      // What happened meanwhile was not told; nor what happened while the page was on its way.
      if (isLost) ring();
      else setTimeout(ring, SETTLE_MS);
      say(false);
    });
    stream.addEventListener("ring", ring);
    stream.addEventListener("error", () => {
      patience ??= setTimeout(() => say(true), PATIENCE_MS);
      // The browser tries again by itself, but not after an answer such as 503.
      if (stream?.readyState === EventSource.CLOSED) {
        close();
        again = setTimeout(open, PATIENCE_MS);
      }
    });
  }

  function close() {
    clearTimeout(again);
    stream?.close();
    stream = null;
  }

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      close();
      clearTimeout(patience);
      patience = undefined;
    } else {
      ring();
      open();
    }
  });
  // A page that the browser keeps for "back" is not hidden first.
  window.addEventListener("pagehide", close);
  window.addEventListener("pageshow", (event) => {
    if (event.persisted && !document.hidden) {
      ring();
      open();
    }
  });
  setInterval(() => {
    if (!isLost) ring();
  }, 1000 * Number(every));
  if (!document.hidden) open();
}
