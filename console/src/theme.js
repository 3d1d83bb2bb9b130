// Light or dark: as the system has it, until somebody chooses.

import { computed, effect, signal } from "@preact/signals";

const system = matchMedia("(prefers-color-scheme: dark)");
const isSystemDark = signal(system.matches);
system.addEventListener("change", () => (isSystemDark.value = system.matches));

export const chosen = signal(localStorage.getItem("theme") || "auto");
export const dark = computed(() => (chosen.value === "auto" ? isSystemDark.value : chosen.value === "dark"));

effect(() => {
  document.documentElement.dataset.theme = dark.value ? "dark" : "light";
  localStorage.setItem("theme", chosen.value);
});

export const next = { auto: "light", light: "dark", dark: "auto" };
