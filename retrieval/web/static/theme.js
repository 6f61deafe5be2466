// Before the page is drawn, or it would flash in the other colours.
"use strict";

const systemDark = matchMedia("(prefers-color-scheme: dark)");

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : systemDark.matches;
}

function keep(theme) {
  document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem("theme", theme);
  } catch {
    // A browser that stores nothing forgets the choice with the page.
  }
}

try {
  const theme = localStorage.getItem("theme");
  if (theme) document.documentElement.dataset.theme = theme;
} catch {
  // As above: the system's choice stands.
}

addEventListener("DOMContentLoaded", () => {
  const button = document.getElementById("theme");
  const show = () => {
    button.textContent = isDark() ? "Light" : "Dark";
    button.ariaLabel = `Switch to ${isDark() ? "light" : "dark"} colours`;
  };
  button.addEventListener("click", () => {
    keep(isDark() ? "light" : "dark");
    show();
  });
  systemDark.addEventListener("change", show);
  show();
});
