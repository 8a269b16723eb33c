// Copyright 2026 The fspo_jax Authors.
// SPDX-License-Identifier: Apache-2.0
// Keys for those who answer by keyboard. Every page works without this file.
"use strict";

const form = document.getElementById("choose");
const keys = document.getElementById("keys");

// Single keys must be possible to turn off (WCAG 2.1.4): who dictates or leans on keys needs it.
const on = () => sessionStorage.getItem("keys") !== "off";

function show() {
  const known = [...form.querySelectorAll("[data-key]")];
  const names = known.map((button) => `${button.dataset.key} ${button.textContent.trim()}`);
  const label = document.createElement("label");
  const box = document.createElement("input");
  box.type = "checkbox";
  box.checked = on();
  box.addEventListener("change", () => sessionStorage.setItem("keys", box.checked ? "on" : "off"));
  label.append(box, ` Keys: ${names.join(", ")}`);
  keys.replaceChildren(label);
  keys.hidden = false;
}

if (form && keys) {
  show();
  document.addEventListener("keydown", (event) => {
    const writing = event.target.closest("textarea, input:not([type=checkbox])");
    if (!on() || writing || event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
    form.querySelector(`[data-key="${CSS.escape(event.key)}"]`)?.click();
  });
}
