// Building and changing the page: text goes in as text nodes, and nothing else.
export const $ = (id) => document.getElementById(id);

// Children that are strings become text; attributes never come from anybody but this page.
export function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") for (const [event, act] of Object.entries(value)) node.addEventListener(event, act);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

export function text(node, value) {
  if (node.textContent !== value) node.textContent = value;
}

export function show(node, visible) {
  if (node.hidden === visible) node.hidden = !visible;
}

export function attribute(node, name, value) {
  if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

// What strangers said: apart from the text around it, also where it is written from right to left.
export const foreign = (value) => h("bdi", { class: "foreign" }, value);

// One child for each item, made once and changed in place, so that focus and selection stay where they are.
export function keyed(parent, items, keyOf, make, change) {
  const kept = parent.kept ?? new Map();
  const wanted = new Map(items.map((item) => [keyOf(item), item]));
  for (const [key, part] of kept) {
    if (wanted.has(key)) continue;
    part.root.remove();
    kept.delete(key);
  }
  let at = parent.firstElementChild;
  for (const [key, item] of wanted) {
    const part = kept.get(key) ?? make(item);
    kept.set(key, part);
    change(part, item);
    if (part.root === at) at = at.nextElementSibling;
    else parent.insertBefore(part.root, at);
  }
  parent.kept = kept;
}

// A figure with its name, and a remark.
export function figure(name) {
  const value = h("dd", { class: "value" });
  const remark = h("dd", { class: "remark" });
  return { root: h("div", {}, h("dt", {}, name), value, remark), value, remark };
}

let quiet;
export function say(words, bad = false) {
  const news = $("news");
  news.className = bad ? "bad" : "";
  text(news, words);
  clearTimeout(quiet);
  quiet = setTimeout(() => text(news, ""), bad ? 15000 : 6000);
}

// Runs what a button does; meanwhile it cannot be pressed again, and a failure is told in words.
export async function press(button, act) {
  if (button.busy) return;
  button.busy = true;
  button.setAttribute("aria-disabled", "true");
  try {
    await act();
  } catch (error) {
    say(error.message, true);
  } finally {
    button.busy = false;
    button.removeAttribute("aria-disabled");
  }
}

// `of`: what it is about, for those who hear the page and do not see where the button is.
export function button(label, of, act, kind = "") {
  const node = h("button", { type: "button", class: kind }, label, h("span", { class: "unseen" }, of && ` ${of}`));
  node.addEventListener("click", () => press(node, act));
  return node;
}

// Opens the dialog; gives back what was chosen, or null. Focus starts at the harmless answer and returns to where it was.
export function dialog(title, content, choices, { wide = false } = {}) {
  const box = $("dialog");
  return new Promise((resolve) => {
    let chosen = null;
    const buttons = choices.map(({ label, value, kind }) => {
      const node = h("button", { type: "button", class: kind ?? "" }, label);
      node.addEventListener("click", () => {
        chosen = typeof value === "function" ? value() : value;
        if (chosen !== undefined) box.close();
      });
      return node;
    });
    box.className = wide ? "wide" : "";
    box.replaceChildren(h("h2", { id: "dialog-title", tabindex: "-1" }, ...title), h("div", { class: "content" }, ...content), h("div", { class: "buttons" }, ...buttons));
    box.addEventListener("close", () => {
      box.replaceChildren();
      resolve(chosen);
    }, { once: true });
    box.showModal();
    // What is there to be read is read from its beginning.
    (wide ? $("dialog-title") : buttons[0]).focus();
  });
}
