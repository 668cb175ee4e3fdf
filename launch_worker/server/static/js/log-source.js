// @ts-check
// Gives the lines of one attempt's output by their numbers: asks the server for pages of them, keeps a few, and follows.

import { LINE_CHARS, lastWritten } from "./log-text.js";

/**
 * A line; it is replaced when it changes.
 * @typedef {{text: string, more: number, atMs: number, isLater: boolean}} Line
 * @typedef {{first: number, lines: number, missing: string}} Kept
 * @typedef {{number: number, text: string, more: number, at_ms: number, later: boolean}} ToldLine
 * @typedef {{attempt: number, attempts: number, count: number, open: boolean, kept: Kept[], lines: ToldLine[],
 *   place: string | null}} Answer
 * @typedef {{count: number, before: number, lines: number[]}} Hits
 * @typedef {{lines: Map<number, Line>, upTo: number, chars: number}} Page
 */

const PAGE_LINES = 128;
const KEPT_PAGES = 100;
const KEPT_CHARS = 2_000_000;
/** Milliseconds before what failed is tried again. */
const AGAIN_MS = 2000;

/** @param {number} number */
const pageOf = (number) => Math.floor((number - 1) / PAGE_LINES);

export class LogSource extends EventTarget {
  /**
   * @param {string} url Of the run's logs.
   * @param {number} attempt 0 for the latest.
   */
  constructor(url, attempt) {
    super();
    this.url = url;
    this.attempt = attempt;
    this.attempts = attempt;
    /** Number of the last line, and whether it has no end yet. */
    this.count = 0;
    this.isOpen = false;
    /** @type {Kept[]} Lines that there are, and what is missing between them. */
    this.kept = [];
    /** Whether more may come. */
    this.isGrowing = false;
    /** Whether the first answer has come. */
    this.isReady = false;
    /** Sentence about what is wrong now, or ''. */
    this.problem = "";
    /** @type {Map<number, Page>} By use, the latest last. */
    this._pages = new Map();
    this._chars = 0;
    /** @type {Map<number, AbortController>} */
    this._asked = new Map();
    /** @type {string | null} Where the stream goes on. */
    this._place = null;
    /** @type {EventSource | null} */
    this._stream = null;
    this._decoder = new TextDecoder();
    /** Last line as it was written, while it is open. */
    this._written = "";
    this._isClosed = false;
    this._again = 0;
    this._reloadedMs = 0;
  }

  /**
   * Ask what there is, and for lines: those around one of them, or the last.
   * @param {number} around
   */
  async open(around = 0) {
    const first = around ? pageOf(around) * PAGE_LINES + 1 : 0;
    const wanted = first ? `&first=${first}&count=${PAGE_LINES}` : `&count=${2 * PAGE_LINES}`;
    try {
      /** @type {Answer} */
      const answer = await this._ask(`/lines?${this._attemptIn()}${wanted}`);
      if (!this._isClosed) this.take(answer, first, first ? first + PAGE_LINES - 1 : answer.count);
    } catch (error) {
      this._fails(error, () => this.open(around));
    }
  }

  /**
   * Begin with what there is, and with lines from one number to another.
   * @param {Answer} answer
   * @param {number} first 0 for those that the answer has.
   * @param {number} last
   */
  take(answer, first = 0, last = answer.count) {
    this.problem = "";
    this._pages.clear();
    this._chars = 0;
    this._takeOutline(answer);
    this._fill(answer, first || (answer.lines[0]?.number ?? 1), last);
    const line = answer.lines.at(-1);
    this._written = answer.open && line?.number === answer.count ? line.text : "";
    this.isReady = true;
    this._changed();
    this.resume();
  }

  close() {
    this._isClosed = true;
    clearTimeout(this._again);
    this.pause();
    for (const asked of this._asked.values()) asked.abort();
  }

  /** Follow no more, until `resume`. */
  pause() {
    this._stream?.close();
    this._stream = null;
  }

  /** Follow what comes, from where it was. */
  resume() {
    if (this._isClosed || this._stream || !this._place || !this.isGrowing || document.hidden) return;
    const stream = new EventSource(`${this.url}/tail?${this._attemptIn()}&after=${encodeURIComponent(this._place)}`);
    this._stream = stream;
    stream.onopen = () => this._sayProblem("");
    stream.addEventListener("output", (event) => this._takeOutput(/** @type {MessageEvent} */ (event)));
    stream.addEventListener("state", (event) => this._takeState(/** @type {MessageEvent} */ (event)));
    stream.addEventListener("problem", (event) => {
      this.pause();
      this._fails(new Error(JSON.parse(/** @type {MessageEvent} */ (event).data).detail), () => this.resume());
    });
    stream.onerror = () => {
      if (this._stream !== stream) return;
      this._sayProblem("The connection is lost; it is tried again.");
      // A browser does not try again by itself what was refused.
      if (stream.readyState === EventSource.CLOSED) {
        this.pause();
        this._later(() => this.resume());
      }
    };
  }

  /** Ask whether there is more of a log that had ended: its run may have been tried again. */
  async look() {
    if (!this.isReady || this.isGrowing || this._isClosed) return;
    try {
      /** @type {Answer} */
      const answer = await this._ask(`/lines?${this._attemptIn()}&count=0`);
      this._hasAttempts(answer.attempts);
    } catch {
      // The page says that the server is away; it asks again by itself.
    }
  }

  /** @param {number} attempts */
  _hasAttempts(attempts) {
    const isNew = attempts > this.attempts;
    this.attempts = Math.max(this.attempts, attempts);
    if (isNew) {
      this._changed();
      this.dispatchEvent(new Event("attempt"));
    }
  }

  /**
   * A line: null while it is not here, undefined where it cannot be read.
   * @param {number} number
   * @returns {Line | null | undefined}
   */
  line(number) {
    const page = this._pages.get(pageOf(number));
    const line = page?.lines.get(number);
    if (line || !page) return line ?? null;
    return page.upTo >= number ? undefined : null;
  }

  /**
   * Ask for those of these lines that are not here, and no more for others.
   * @param {Iterable<number>} numbers
   */
  want(numbers) {
    /** @type {Set<number>} */
    const wanted = new Set();
    for (const number of numbers) {
      const page = pageOf(number);
      if (this.line(number) === null) wanted.add(page);
      else this._use(page);
    }
    /** @type {Set<AbortController>} */
    const needed = new Set();
    for (const page of wanted) {
      const asked = this._asked.get(page);
      if (asked) needed.add(asked);
    }
    for (const [page, asked] of this._asked) {
      if (!needed.has(asked)) {
        asked.abort();
        this._asked.delete(page);
      }
    }
    const missing = [...wanted].filter((page) => !this._asked.has(page)).sort((a, b) => a - b);
    // Pages that follow each other are asked for at once.
    for (let at = 0, count = 1; at < missing.length; at += count, count = 1) {
      while (missing[at + count] === missing[at] + count) count += 1;
      this._askPages(missing[at], count);
    }
  }

  /**
   * The lines that have a text in them, around one.
   * @param {string} text
   * @param {number} near
   * @param {AbortSignal} signal
   * @returns {Promise<Hits>}
   */
  search(text, near, signal) {
    const about = new URLSearchParams({ q: text, near: String(near) });
    return this._ask(`/search?${this._attemptIn()}&${about}`, signal);
  }

  /**
   * Where a line is whole, as a file.
   * @param {number} [number] All of the output for none.
   */
  download(number) {
    return `${this.url}?${this._attemptIn()}${number ? `&from_line=${number}&lines=1` : ""}`;
  }

  _attemptIn() {
    return this.attempt ? `attempt=${this.attempt}` : "";
  }

  /**
   * @param {string} path
   * @param {AbortSignal} [signal]
   */
  async _ask(path, signal) {
    const answer = await fetch(this.url + path, { signal, headers: { Accept: "application/json" } });
    const said = await answer.json().catch(() => ({}));
    if (!answer.ok) throw new Error(said.detail || `The server answers ${answer.status}.`);
    return said;
  }

  /**
   * @param {number} page
   * @param {number} count
   */
  async _askPages(page, count) {
    const asked = new AbortController();
    const forget = () => {
      for (const [one, by] of this._asked) if (by === asked) this._asked.delete(one);
    };
    for (let one = page; one < page + count; one++) this._asked.set(one, asked);
    const first = page * PAGE_LINES + 1;
    const lines = count * PAGE_LINES;
    try {
      /** @type {Answer} */
      const answer = await this._ask(`/lines?${this._attemptIn()}&first=${first}&count=${lines}`, asked.signal);
      forget();
      this._fill(answer, first, first + lines - 1);
      this.problem = "";
      this.dispatchEvent(new Event("filled"));
    } catch (error) {
      if (asked.signal.aborted) return;
      // They stay among those that were asked for: nobody asks again before the time.
      this._fails(error, () => {
        forget();
        this._changed();
      });
    }
  }

  /** @param {Answer} answer */
  _takeOutline(answer) {
    this.attempt = answer.attempt;
    this.attempts = Math.max(answer.attempts, answer.attempt);
    this.count = answer.count;
    this.isOpen = answer.open;
    this.kept = answer.kept;
    this.isGrowing = answer.place !== null;
    this._place = answer.place;
  }

  /**
   * Keep the pages that an answer has whole.
   * @param {Answer} answer
   * @param {number} from
   * @param {number} to
   */
  _fill(answer, from, to) {
    for (let page = Math.ceil((from - 1) / PAGE_LINES); page <= pageOf(Math.max(1, to)); page++) {
      this._drop(page);
      this._pages.set(page, { lines: new Map(), upTo: answer.count, chars: 0 });
    }
    for (const { number, text, more, at_ms, later } of answer.lines) {
      this._put(number, { text, more, atMs: at_ms, isLater: later });
    }
    this._forget();
  }

  /**
   * @param {number} number
   * @param {Line} line
   */
  _put(number, line) {
    const page = this._pages.get(pageOf(number));
    if (!page) return;
    const grown = line.text.length - (page.lines.get(number)?.text.length ?? 0);
    page.lines.set(number, line);
    page.chars += grown;
    this._chars += grown;
  }

  /** @param {number} page */
  _use(page) {
    const found = this._pages.get(page);
    if (found) {
      this._pages.delete(page);
      this._pages.set(page, found);
    }
  }

  /** @param {number} page */
  _drop(page) {
    this._chars -= this._pages.get(page)?.chars ?? 0;
    this._pages.delete(page);
  }

  /** Let go what was not used for the longest time. */
  _forget() {
    for (const page of this._pages.keys()) {
      if (this._pages.size <= 2 || (this._pages.size <= KEPT_PAGES && this._chars <= KEPT_CHARS)) return;
      this._drop(page);
    }
  }

  /** @param {MessageEvent} event */
  _takeOutput(event) {
    const { text, base64, missing } = JSON.parse(event.data);
    const attempt = Number(event.lastEventId.split(".")[0]);
    // A run that waits has no attempt yet.
    this.attempt ||= attempt;
    if (attempt > this.attempt) {
      this.isGrowing = false;
      this.pause();
    }
    this._hasAttempts(attempt);
    if (!this.isGrowing) return;
    if (missing) {
      this._reload();
      return;
    }
    this._place = event.lastEventId;
    // What is no UTF-8 by itself may be a part of a character.
    if (base64) this._append(this._decoder.decode(bytesOf(base64), { stream: true }));
    else this._append(this._decoder.decode() + text);
    this._changed();
  }

  /** Ask anew what there is, where the stream has left something out. */
  _reload() {
    this.pause();
    const wait = Math.max(0, this._reloadedMs + AGAIN_MS - Date.now());
    this._reloadedMs = Date.now() + wait;
    this._later(() => this.open(), wait);
  }

  /** @param {MessageEvent} event */
  _takeState(event) {
    const { run } = JSON.parse(event.data);
    this._place = event.lastEventId;
    const isEnd = event.lastEventId.split(".")[3]?.[1] === "1";
    if (isEnd) {
      this.isGrowing = false;
      this.pause();
    }
    this._hasAttempts(run.attempt ?? 0);
    this._changed();
  }

  /** @param {string} text */
  _append(text) {
    const atMs = Date.now();
    const parts = text.split("\n");
    parts.forEach((part, at) => {
      const isLast = at === parts.length - 1;
      if (isLast && !part) return;
      if (!this.isOpen) {
        this.count += 1;
        this._written = "";
        if (this.count % PAGE_LINES === 1) {
          const page = { lines: new Map(), upTo: this.count - 1, chars: 0 };
          this._pages.set(pageOf(this.count), page);
        }
      }
      this._write(part, atMs);
      this.isOpen = isLast;
    });
    const last = this.kept.at(-1);
    if (last) last.lines = Math.max(0, this.count - last.first + 1);
    else if (this.count) this.kept.push({ first: 1, lines: this.count, missing: "" });
    this._forget();
  }

  /**
   * Go on with the last line.
   * @param {string} part
   * @param {number} atMs
   */
  _write(part, atMs) {
    const before = this.line(this.count);
    let more = before?.more ?? 0;
    let written = this._written + part;
    if (part.includes("\r")) {
      written = lastWritten(written) + (written.endsWith("\r") ? "\r" : "");
      more = 0;
    }
    const text = lastWritten(written);
    if (written.length > LINE_CHARS + 1) {
      more += written.length - LINE_CHARS;
      written = written.slice(0, LINE_CHARS);
    }
    this._written = written;
    this._put(this.count, { text: text.slice(0, LINE_CHARS), more, atMs: before?.atMs ?? atMs, isLater: false });
  }

  /**
   * @param {unknown} error
   * @param {() => void} retry
   */
  _fails(error, retry) {
    if (this._isClosed) return;
    // A fetch that did not reach the server is a TypeError.
    this._sayProblem(
      error instanceof TypeError
        ? "The server is not reached; it is tried again."
        : String(/** @type {Error} */ (error).message),
    );
    this._later(retry);
  }

  /**
   * @param {() => void} act
   * @param {number} [ms]
   */
  _later(act, ms = AGAIN_MS) {
    this._again = window.setTimeout(() => this._isClosed || act(), ms);
  }

  /** @param {string} problem */
  _sayProblem(problem) {
    if (problem === this.problem) return;
    this.problem = problem;
    this._changed();
  }

  _changed() {
    if (!this._isClosed) this.dispatchEvent(new Event("change"));
  }
}

/** @param {string} base64 */
function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}
