// Small hands for the document. Text is set as text, and only where it differs: what somebody has marked or reads stays as it is.

export function byId(id) {
  return document.getElementById(id);
}

export function element(name, options = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(options)) {
    if (key === "class") made.className = value;
    else if (value != null) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// The rows of `body` become those of `rows`, by `key`: of a row that was there only what differs is changed.
// fill(row) gives each cell's text, or {text, note, share, mark, href}: a quiet word beside it, the length of a bar, what marks it
// ("wait" or "warn"), and where it leads. A column has a note, a bar, a link or none of them in all its rows.
export function fillTable(body, rows, key, fill) {
  const before = new Map([...body.rows].map((row) => [row.dataset.key, row]));
  const columns = [...body.parentElement.tHead.rows[0].cells].map((cell) => cell.className);
  const after = rows.map((data) => {
    const name = String(key(data));
    const row = before.get(name) ?? element("tr", { "data-key": name });
    fill(data).forEach((value, i) => fillCell(row, i, columns[i], value));
    return row;
  });
  if (after.length !== body.rows.length || after.some((row, i) => body.rows[i] !== row)) body.replaceChildren(...after);
}

function fillCell(row, i, column, value) {
  const { text, share, mark, note, href } = typeof value === "object" ? value : { text: value };
  let cell = row.cells[i];
  if (!cell) {
    cell = i === 0 ? element("th", { scope: "row" }) : element("td");
    row.append(cell);
  }
  const name = [column, mark ? `mark ${mark}` : ""].join(" ").trim();
  if (cell.className !== name) cell.className = name;
  if (href !== undefined) {
    if (!cell.firstElementChild) cell.replaceChildren(element("a"));
    say(cell.firstElementChild, text);
    cell.firstElementChild.setAttribute("href", href);
    return;
  }
  if (share === undefined && note === undefined) {
    say(cell, text);
    return;
  }
  if (!cell.firstElementChild) {
    const beside = element("span", note !== undefined ? { class: "small" } : { class: "bar", "aria-hidden": "true" });
    cell.replaceChildren(element("span"), " ", beside); // the space is for whoever hears or copies it
  }
  say(cell.firstElementChild, text);
  if (note !== undefined) say(cell.lastElementChild, note);
  else cell.lastElementChild.style.setProperty("--share", String(Math.min(1, Math.max(0, share ?? 0))));
}

// pairs: [term, text] or [term, text, note].
export function fillList(list, pairs) {
  pairs.forEach(([term, text, note], i) => {
    let pair = list.children[i];
    if (!pair) {
      pair = element("div", {}, element("dt"), element("dd", {}, element("span"), " ", element("span", { class: "small" })));
      list.append(pair);
    }
    say(pair.firstElementChild, term);
    say(pair.lastElementChild.firstElementChild, text);
    say(pair.lastElementChild.lastElementChild, note ?? "");
  });
  while (list.children.length > pairs.length) list.lastElementChild.remove();
}

const SVG = "http://www.w3.org/2000/svg";

export function drawn(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// A form for each level, so that colour is never the only sign.
const SHAPES = {
  good: ["M10 1.5a8.5 8.5 0 1 0 0 17a8.5 8.5 0 0 0 0-17z", "M6 10.4l2.7 2.7l5.3-5.6"],
  wait: ["M10 1.5a8.5 8.5 0 1 0 0 17a8.5 8.5 0 0 0 0-17z", "M10 5.6v4.6l3 2"],
  warn: ["M10 1.8L19 17.8H1z", "M10 7.4v4.6M10 14.6v.6"],
  bad: ["M6.4 1.5h7.2l4.9 4.9v7.2l-4.9 4.9H6.4l-4.9-4.9V6.4z", "M7 7l6 6M13 7l-6 6"],
};

export function icon(level) {
  const [body, sign] = SHAPES[level];
  const made = drawn("svg", { viewBox: "0 0 20 20", class: "icon", "aria-hidden": "true" });
  made.append(drawn("path", { d: body, class: "body" }), drawn("path", { d: sign, class: "sign" }));
  return made;
}
