// Numbers, durations, sizes and times as the page writes them. null is what cannot be told yet: a dash.

const DASH = "–";
const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const TENTHS = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const AT_MOST_TENTHS = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const MILLIONS = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const SHORT = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

export function count(value) {
  return value == null ? DASH : WHOLE.format(value);
}

// For a narrow column: from ten millions on three digits are enough.
export function amount(value) {
  return value >= 1e7 ? MILLIONS.format(value) : count(value);
}

// For the axis of a plot: 12.5K.
export function short(value) {
  return SHORT.format(value);
}

export function perSecond(value) {
  if (value == null) return DASH;
  return value > 0 && value < 9.95 ? TENTHS.format(value) : WHOLE.format(value);
}

export function percent(ratio) {
  if (ratio == null) return DASH;
  const value = 100 * ratio;
  return `${value > 0 && value < 9.95 ? TENTHS.format(value) : WHOLE.format(value)}%`;
}

export function duration(seconds) {
  if (seconds == null) return DASH;
  if (seconds === 0) return "0 s";
  if (seconds < 0.00995) return `${AT_MOST_TENTHS.format(seconds * 1000)} ms`;
  if (seconds < 0.9995) return `${WHOLE.format(seconds * 1000)} ms`;
  if (seconds < 9.95) return `${AT_MOST_TENTHS.format(seconds)} s`;
  if (seconds < 99.5) return `${WHOLE.format(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  if (minutes < 48 * 60) return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  return `${Math.floor(minutes / 1440)} d ${Math.floor((minutes % 1440) / 60)} h`;
}

// For the axis of a plot over decades.
export function decade(seconds) {
  return seconds < 1 ? `${count(seconds * 1000)} ms` : `${count(seconds)} s`;
}

export function bytes(value) {
  if (value == null) return DASH;
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  let power = 0;
  while (value >= 999.5 && power < units.length - 1) {
    value /= 1000;
    power += 1;
  }
  return `${power && value < 9.95 ? TENTHS.format(value) : WHOLE.format(value)} ${units[power]}`;
}

// Unix seconds to 21:30:12.
export function time(unix) {
  return new Date(unix * 1000).toISOString().slice(11, 19);
}

export function minute(unix) {
  return new Date(unix * 1000).toISOString().slice(11, 16);
}

export function dateTime(unix) {
  return new Date(unix * 1000).toISOString().slice(0, 19).replace("T", " ");
}

// A measured value: four digits are enough to compare it with another.
const VALUE = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });
const SMALL = new Intl.NumberFormat("en", { notation: "scientific", maximumSignificantDigits: 3 });

export function value(number) {
  if (number == null) return DASH;
  const size = Math.abs(number);
  return size !== 0 && (size < 1e-4 || size >= 1e9) ? SMALL.format(number) : VALUE.format(number);
}

// Milliseconds, where a plot's whole span is short.
export function moment(unix) {
  return new Date(unix * 1000).toISOString().slice(11, 23);
}

export function plural(number, noun) {
  return `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
}
