#!/usr/bin/env bash
# Bundles the drawing library of the report page into the package. Needs npm and its registry, which
# neither the package nor its tests do. Run it after a change of package.json or entry.js.
set -euo pipefail
cd "$(dirname "$0")"
assets=../../src/plop_lora/reports/page/assets
npm ci --no-audit --no-fund
npx esbuild entry.js --bundle --minify --format=iife --global-name=plopVega --target=es2020 \
  --legal-comments=none --charset=ascii --outfile="$assets/vega.js"
node licences.js > "$assets/vega-licences.txt"
sha256sum "$assets/vega.js" | cut -d' ' -f1 > "$assets/vega.js.sha256"
