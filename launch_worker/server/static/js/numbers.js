// @ts-check
/** Numbers as people read them, for what is drawn. The server has the same in launch_worker/humane.py. */

const BYTES = ["B", "KiB", "MiB", "GiB", "TiB"];

/**
 * A value in its unit: "bytes", "seconds" or "".
 * @param {number | null | undefined} value
 * @param {string} [unit]
 */
export function text(value, unit = "") {
  if (value == null) return "–";
  if (unit === "bytes") {
    const power = value < 1 ? 0 : Math.min(BYTES.length - 1, Math.floor(Math.log2(value) / 10));
    return `${+(value / 1024 ** power).toPrecision(3)} ${BYTES[power]}`;
  }
  if (unit === "seconds") {
    const whole = Math.round(value);
    const [days, hours, minutes] = [Math.floor(whole / 86400), Math.floor(whole / 3600) % 24, Math.floor(whole / 60) % 60];
    if (days) return `${days} d ${hours} h`;
    if (hours) return `${hours} h ${minutes} min`;
    return minutes ? `${minutes} min${whole % 60 ? ` ${whole % 60} s` : ""}` : `${+value.toPrecision(3)} s`;
  }
  const size = Math.abs(value);
  if (size && (size < 1e-3 || size >= 1e9)) return value.toExponential(3).replace(/\.?0+e/, "e");
  return (+value.toPrecision(size >= 1e4 ? 9 : 4)).toLocaleString("en", { maximumFractionDigits: 9 });
}

/**
 * The steps that lines of an axis may have: binary ones for bytes, of minutes and hours for seconds.
 * @param {string} unit
 */
export function steps(unit) {
  if (unit === "bytes") return Array.from({ length: 50 }, (_, power) => 2 ** power);
  if (unit !== "seconds") return undefined;
  const seconds = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 43200, 86400];
  return [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, ...seconds, ...[2, 5, 7, 14, 28, 56].map((days) => days * 86400)];
}
