// Bundles the console into a folder: what the server serves, with the licences of what is in it.
//     node build.mjs FOLDER

import { build } from "esbuild";
import { copyFile, mkdir, readFile, readdir, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const folder = process.argv[2];

await mkdir(folder, { recursive: true });
const { metafile } = await build({
  absWorkingDir: here,
  entryPoints: { app: "src/main.js" },
  outdir: folder,
  bundle: true,
  minify: true,
  format: "esm",
  target: ["es2023", "chrome115", "firefox115", "safari16.4"],
  legalComments: "none", // they are in LICENSES.txt, whole
  charset: "utf8",
  metafile: true,
});
for (const name of ["index.html", "icon.svg"]) await copyFile(join(here, name), join(folder, name));

const names = new Set();
for (const path of Object.keys(metafile.inputs)) {
  const found = path.match(/node_modules\/((?:@[^/]+\/)?[^/]+)/);
  if (found) names.add(found[1]);
}
const parts = [];
for (const name of [...names].sort()) {
  const home = join(here, "node_modules", name);
  const { version, license } = JSON.parse(await readFile(join(home, "package.json"), "utf8"));
  const file = (await readdir(home)).find((each) => /^licen[cs]e(\.|$)/i.test(each));
  if (!file) throw new Error(`${name} has no licence`);
  parts.push(`${name} ${version} (${license})\n\n${(await readFile(join(home, file), "utf8")).trim()}\n`);
}
await writeFile(join(folder, "LICENSES.txt"), parts.join(`\n${"-".repeat(80)}\n\n`));
