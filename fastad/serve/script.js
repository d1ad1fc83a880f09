"use strict";
// Keys, the list that follows the line, and the counts while a threshold is dragged.

const one = (selector, within = document) => within.querySelector(selector);

function isTyping(target, key) {
  if (target.matches("input[type=range]")) return key.startsWith("Arrow"); // labels work beside it
  return target.matches("select, textarea, input:not([type=checkbox])");
}

function move(step) {
  const links = [...document.querySelectorAll(".picture")];
  const at = links.indexOf(document.activeElement);
  const next = links[at < 0 ? 0 : at + step];
  if (next) next.focus();
  return Boolean(next);
}

const STEPS = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -1, ArrowDown: 1 };

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target, event.key)) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const card = document.activeElement.closest(".card");
  const isLabel = key === "g" || key === "d";
  if (isLabel && one(".card") && !card) return; // no image is chosen
  const found = one(`[data-key="${CSS.escape(key)}"]`, isLabel && card ? card : document);
  if (found) {
    event.preventDefault();
    found.click();
  } else if (key in STEPS && one(".picture") && move(STEPS[key])) {
    event.preventDefault();
  }
});

// Long work says so.
for (const form of document.querySelectorAll("form")) {
  form.addEventListener("submit", () => {
    const wait = one(".wait", form);
    if (wait) wait.hidden = false;
  });
}

const live = one("[data-live]");
if (live) {
  const address = new URL(location.href);
  address.searchParams.set("part", "rows");
  let shown = "";
  setInterval(async () => {
    if (document.hidden) return;
    try {
      const answer = await fetch(address);
      if (!answer.ok) throw new Error(String(answer.status));
      const text = await answer.text();
      one("#lost").hidden = true;
      if (text === shown) return;
      const focused = document.activeElement.closest("#live a, #live button");
      const card = focused && focused.closest(".card");
      const kind = focused && (focused.dataset.key || "");
      shown = text;
      live.innerHTML = text; // written by our own server, which escapes what it is given
      const again = card && document.getElementById(card.id);
      if (again) one(kind ? `[data-key="${kind}"]` : ".picture", again).focus();
    } catch {
      one("#lost").hidden = false;
    }
  }, 1500);
}

const opacity = one("#opacity");
if (opacity) {
  const map = one(".map");
  opacity.addEventListener("input", () => { map.style.opacity = opacity.value / 100; });
  one("#outline").addEventListener("change", (event) => {
    const border = one(".border");
    if (border) border.toggleAttribute("hidden", !event.target.checked);
  });
  const photo = one(".photo");
  const fail = () => { one(".failed").hidden = false; };
  if (photo.complete && photo.naturalWidth === 0) fail();
  photo.addEventListener("error", fail);
}

const threshold = one("#threshold");
if (threshold) {
  const scores = (name) => JSON.parse(threshold.dataset[name]);
  const good = scores("good"), defect = scores("defect"), calibration = scores("calibration");
  threshold.elements.value.addEventListener("input", (event) => {
    const limit = Number(event.target.value);
    const above = (values) => values.filter((value) => value > limit).length;
    threshold.elements.number.value = limit.toPrecision(5);
    if (threshold.elements.calibration) threshold.elements.calibration.value = above(calibration);
    if (good.length + defect.length > 0) {
      threshold.elements.sentence.value =
        `would stop ${above(good)} of ${good.length} good ones, ` +
        `would pass ${defect.length - above(defect)} of ${defect.length} defects`;
    }
  });
}
