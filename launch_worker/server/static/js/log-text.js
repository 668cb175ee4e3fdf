// @ts-check
// Turns a line of output, which a stranger's job may have written, into text that is true and harmless to show.

/**
 * A line as it is shown, and which parts of its text have a class.
 * @typedef {{text: string, marks: Array<[from: number, to: number, style: string]>}} Shown
 */

/** Characters of a line that are kept at most, as the server gives them. */
export const LINE_CHARS = 4000;

// Whole escape sequences (CSI; OSC and other strings; short ones), an ESC that begins none, other control characters,
// and what changes the direction of text or ends a line elsewhere.
const SPECIAL =
  /\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-OQ-WYZ\\`-~]|[\0-\x08\n-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g;
const COLOURS = /^\x1b\[([0-9;:]*)m$/;
// Hues of the theme by sixths of the circle: red, yellow, green, cyan, blue, magenta, by their numbers in ANSI.
const HUES = [1, 3, 2, 6, 4, 5];

/**
 * What a terminal shows of a line that was written over: the text after the last carriage return with any.
 * @param {string} text
 */
export function lastWritten(text) {
  if (!text.includes("\r")) return text;
  const parts = text.split("\r");
  for (let at = parts.length - 1; at > 0; at--) if (parts[at]) return parts[at];
  return parts[0];
}

/**
 * The text of a line, with colours as marks; other escape sequences are left out, other control characters are shown.
 * @param {string} line
 * @returns {Shown}
 */
export function shownLine(line) {
  let text = "";
  /** @type {Shown['marks']} */
  const marks = [];
  const pen = new Pen();
  let place = 0;
  let begin = 0;
  const mark = (/** @type {string} */ style) => {
    if (style && text.length > begin) marks.push([begin, text.length, style]);
    begin = text.length;
  };
  for (const match of line.matchAll(SPECIAL)) {
    text += line.slice(place, match.index);
    place = match.index + match[0].length;
    if (match[0].length > 1) {
      const colours = COLOURS.exec(match[0]);
      if (colours) {
        mark(pen.style);
        pen.take(colours[1]);
      }
    } else {
      mark(pen.style);
      text += visible(match[0]);
      mark("log-control");
    }
  }
  text += line.slice(place);
  mark(pen.style);
  return { text, marks };
}

/** @param {string} character */
function visible(character) {
  const code = character.charCodeAt(0);
  if (code < 0x20) return String.fromCharCode(0x2400 + code);
  if (code === 0x7f) return "\u2421";
  return `⟨U+${code.toString(16).toUpperCase().padStart(4, "0")}⟩`;
}

/** Holds the look that sequences of colours have set so far in a line. */
class Pen {
  constructor() {
    this.style = "";
    this.clear();
  }

  clear() {
    /** @type {number} Number of the hue; 0 for none, 8 for grey. */
    this.hue = 0;
    this.bold = this.dim = this.italic = this.underline = this.back = this.inverse = false;
  }

  /** @param {string} given The numbers of one sequence. */
  take(given) {
    // Colons separate the parts of one colour; one of them may be empty.
    const codes = given.replaceAll("::", ":").replaceAll(":", ";").split(";").map(Number);
    for (let at = 0; at < codes.length; at++) {
      const code = codes[at];
      if (code === 0) this.clear();
      else if (code === 1) this.bold = true;
      else if (code === 2) this.dim = true;
      else if (code === 3) this.italic = true;
      else if (code === 4) this.underline = true;
      else if (code === 7) this.inverse = true;
      else if (code === 22) this.bold = this.dim = false;
      else if (code === 23) this.italic = false;
      else if (code === 24) this.underline = false;
      else if (code === 27) this.inverse = false;
      else if (code >= 30 && code <= 37) this.hue = plain(code - 30);
      else if (code >= 90 && code <= 97) this.hue = plain(code - 82);
      else if (code === 39) this.hue = 0;
      else if (code === 49) this.back = false;
      else if ((code >= 40 && code <= 47) || (code >= 100 && code <= 107)) this.back = true;
      else if (code === 38 || code === 48) {
        const [hue, taken] = extended(codes.slice(at + 1));
        if (code === 38) this.hue = hue;
        else this.back = true;
        at += taken;
      }
    }
    this.style = [
      this.hue && `log-hue-${this.hue}`,
      this.bold && "log-bold",
      this.dim && "log-dim",
      this.italic && "log-italic",
      this.underline && "log-underline",
      (this.back || this.inverse) && "log-back",
    ]
      .filter(Boolean)
      .join(" ");
  }
}

/**
 * The hue of one of 16 colours. Black and white are the theme's own colour of text: one of them could not be read.
 * @param {number} colour
 */
function plain(colour) {
  if (colour === 8) return 8;
  return colour % 8 === 0 || colour % 8 === 7 ? 0 : colour % 8;
}

/**
 * The hue of what follows 38 or 48, and how many numbers that takes.
 * @param {number[]} codes
 * @returns {[number, number]}
 */
function extended(codes) {
  if (codes[0] === 2) return [hueOf(codes[1], codes[2], codes[3]), 4];
  if (codes[0] !== 5) return [0, 1];
  const colour = codes[1];
  if (colour < 16) return [plain(colour), 2];
  if (colour >= 232) return [colour >= 237 && colour <= 249 ? 8 : 0, 2];
  const levels = [0, 95, 135, 175, 215, 255];
  const cube = colour - 16;
  return [hueOf(levels[Math.floor(cube / 36)], levels[Math.floor(cube / 6) % 6], levels[cube % 6]), 2];
}

/**
 * @param {number} red
 * @param {number} green
 * @param {number} blue
 */
function hueOf(red, green, blue) {
  const most = Math.max(red, green, blue);
  const spread = most - Math.min(red, green, blue);
  if (!(spread >= 40)) return most >= 80 && most <= 190 ? 8 : 0;
  let turn = (red - green) / spread + 4;
  if (most === red) turn = ((green - blue) / spread + 6) % 6;
  else if (most === green) turn = (blue - red) / spread + 2;
  return HUES[Math.round(turn) % 6];
}
