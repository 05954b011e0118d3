// Prints the licence of every package in the bundle: what package.json names, and what that needs.
import {existsSync, readFileSync, readdirSync} from 'node:fs';
import {join} from 'node:path';

const read = (path) => JSON.parse(readFileSync(path, 'utf8'));
const found = new Map();

function folderOf(name, from) {
  for (let folder = from; ; folder = join(folder, '..', '..')) {
    const path = join(folder, 'node_modules', name);
    if (existsSync(path)) return path;
    if (folder === '.' || folder === '') throw new Error(`${name} is not installed`);
  }
}

function collect(name, from) {
  const folder = folderOf(name, from);
  const own = read(join(folder, 'package.json'));
  const key = `${own.name} ${own.version}`;
  if (found.has(key)) return;
  const file = readdirSync(folder).find((entry) => /^licen[cs]e(\.|$)/i.test(entry));
  found.set(key, `${key} (${own.license})\n\n${file ? readFileSync(join(folder, file), 'utf8').replaceAll('\r', '').trim() : ''}`);
  for (const needed of Object.keys(own.dependencies ?? {})) collect(needed, '.');
}

for (const name of Object.keys(read('package.json').dependencies)) collect(name, '.');
console.log([...found.keys()].sort().map((key) => found.get(key)).join(`\n\n${'-'.repeat(80)}\n\n`));
