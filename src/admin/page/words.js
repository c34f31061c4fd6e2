// Figures in words: numbers, sizes, durations, times of the viewer's own clock.
const NARROW = "\u202f";

export function count(number) {
  const digits = String(Math.round(number));
  return digits.length > 4 ? digits.replace(/\B(?=(\d{3})+$)/g, NARROW) : digits;
}

export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

export function bytes(number) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (number >= 1024 && unit < units.length - 1) {
    number /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || number >= 100 ? 0 : number >= 10 ? 1 : 2;
  return `${number.toFixed(digits)} ${units[unit]}`;
}

export function rate(perSecond) {
  if (perSecond === 0) return "0/s";
  if (perSecond < 0.1) return `${(perSecond * 60).toFixed(1)}/min`;
  return perSecond < 10 ? `${perSecond.toFixed(1)}/s` : `${count(perSecond)}/s`;
}

// Two digits or two units are enough: 3 h 20 min, 40 min.
export function span(seconds) {
  if (seconds < 1) return "0 s";
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const first = units.findIndex(([, size]) => seconds >= size);
  let rest = seconds;
  return units.slice(first, first + 2).map(([name, size]) => {
    const whole = Math.floor(rest / size);
    rest -= whole * size;
    return [whole, name];
  }).filter(([whole], at, all) => at === 0 || (whole > 0 && all[0][0] < 10)).map(([whole, name]) => `${whole} ${name}`).join(" ");
}

export function milliseconds(seconds) {
  const ms = seconds * 1000;
  return ms >= 1000 ? span(seconds) : `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
}

const two = (number) => String(number).padStart(2, "0");

export const clock = (date) => `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;

// 2026-11-21 20:35:10, in the time of whoever looks.
export function moment(time) {
  const date = new Date(time);
  if (Number.isNaN(date.getTime())) return "unknown";
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${clock(date)}`;
}

// Strangers can say very much; the beginning tells what it is about.
export const short = (words, most = 400) => (words.length > most ? `${words.slice(0, most)}…` : words);

// What would steer a line of text (controls, direction marks) is shown as what it is.
export function visible(text) {
  return text.replace(/[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g,
    (sign) => `\\u{${sign.codePointAt(0).toString(16)}}`);
}
