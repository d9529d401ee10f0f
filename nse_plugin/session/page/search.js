"use strict";
const form = document.getElementById("search");
const [words, state, count] = ["input", "select", "output"].map((name) => form.querySelector(name));
const facts = [...document.querySelectorAll(".facts > li")].map((item) => [item, item.textContent.toLowerCase()]);

function show() {
  const wanted = words.value.toLowerCase().split(/\s+/);
  let shown = 0;
  for (const [item, text] of facts) {
    item.hidden = !wanted.every((word) => text.includes(word)) || (state.value && item.dataset.state !== state.value);
    shown += !item.hidden;
  }
  count.value = `${shown} of ${facts.length} facts`;
}

function showTarget() { // a link may lead to a fact that the search hides
  const target = document.getElementById(location.hash.slice(1));
  if (target && target.hidden) {
    form.reset();
    show();
    target.scrollIntoView();
  }
}

form.hidden = false;
form.addEventListener("input", show);
form.addEventListener("submit", (event) => event.preventDefault());
window.addEventListener("hashchange", showTarget);
show();
