#!/usr/bin/env bash
# Everything that only a GPU can show, in one run of a few minutes and without a network.
#
#   scripts/gpu/run.sh [--seconds TOTAL] [--results DIR] [--only PART,…] [--dry]
#
# Parts, in this order: env, tests, score, four-bit, stream, study. --dry does the same on a CPU,
# with tiny shapes. Each part has a limit of its own and leaves its record in DIR/DATE-CARD,
# whatever becomes of the others; the study takes the time that is left.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1

# Seconds that each part may take at most: 240 together, beside the unpacking.
declare -A LIMIT=([receive]=75 [env]=30 [tests]=60 [score]=65 [four-bit]=35 [stream]=50)
TOTAL=500
RESULTS=scripts/gpu/results
ONLY=env,tests,score,four-bit,stream,study
DRY=

usage() { echo "usage: run.sh [--seconds TOTAL] [--results DIR] [--only PART,…] [--dry]" >&2; exit 2; }
while (($#)); do
  case $1 in
    --seconds) TOTAL=${2:-}; shift 2 || usage ;;
    --results) RESULTS=${2:-}; shift 2 || usage ;;
    --only) ONLY=${2:-}; shift 2 || usage ;;
    --dry) DRY=yes; shift ;;
    *) usage ;;
  esac
done
[[ $TOTAL =~ ^[0-9]+$ && -n $RESULTS ]] || usage
for part in ${ONLY//,/ }; do
  [[ $part == study || ( $part != receive && -n ${LIMIT[$part]:-} ) ]] || usage
done

PYTHON=${PYTHON:-python3}
WORK=${PLOP_GPU_WORK:-build/gpu}
PARCELS=${PLOP_GPU_PARCELS:-build/parcels}
MODELS=${PLOP_GPU_MODELS:-build/models}
STUDY=${PLOP_GPU_STUDY:-build/study}
if [[ $DRY ]]; then
  CARD=dry DEVICE=cpu
  ENV=(--size 256 --copy-mib 8)
  SCORE=(--shape tiny --batches 2 --sequences 2 --tokens 32 --rounds 1 --draw-rounds 1)
  FOUR_BIT=(--shape tiny --layers 1 --batches 1 --sequences 2 --tokens 32 --rounds 1 --texts 8)
  STREAM=(--layers 2 --hidden 384 --vocabulary 1000 --sequences 8 --rounds 1)
  TRIALS=(--workers 1)
  # A processor that others use too is slower than a GPU that nobody else has.
  for name in "${!LIMIT[@]}"; do LIMIT[$name]=$((4 * LIMIT[$name])); done
else
  CARD=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n 1 | tr -cs 'A-Za-z0-9\n' -)
  DEVICE=cuda
  ENV=()
  SCORE=(--shape "Llama 1B" --shape "Llama 8B")
  FOUR_BIT=()
  STREAM=()
  TRIALS=(--workers "${PLOP_GPU_WORKERS:-8}")
  [[ $CARD ]] || { echo "nvidia-smi shows no card; scripts/gpu/run.sh --dry needs none" >&2; exit 1; }
fi
FOLDER=$RESULTS/$(date +%F)-$CARD
mkdir -p "$FOLDER" "$WORK" || exit 1
exec > >(tee -a "$FOLDER/run.log") 2>&1
# The tree's own sources come before the wheel of them in the site folder, which may be older.
export PYTHONPATH="$PWD/src:$(realpath "$WORK")/site:$PWD/scripts/gpu${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
export PLOP_OUTCOMES=$FOLDER/tests.json

CHILD=
trap 'if [[ $CHILD ]]; then kill -TERM "$CHILD"; wait "$CHILD"; fi; exit 143' TERM INT
FAILED=()

# limited NAME SECONDS COMMAND…: run a part, for no longer than it or the whole run may take.
limited() {
  local name=$1 limit=$2 status=0; shift 2
  local left=$((TOTAL - SECONDS))
  ((limit > left)) && limit=$left
  ((limit < 5)) && { echo "== $name: left out, no time"; return; }
  echo "== $name: at most $limit s, $SECONDS s after the start"
  timeout --kill-after=10 "$limit" "$@" </dev/null &
  CHILD=$!
  wait "$CHILD" || status=$?
  CHILD=
  ((status == 0)) && return
  ((status == 124 || status == 137)) && echo "== $name: stopped at its limit"
  ((status == 124 || status == 137)) || echo "== $name: failed with $status"
  FAILED+=("$name")
}
wanted() { [[ ,$ONLY, == *,$1,* ]]; }
part() { # part NAME FILE OPTION…
  local name=$1 file=$2; shift 2
  wanted "$name" || return 0
  limited "$name" "${LIMIT[$name]}" "$PYTHON" "scripts/gpu/$file" --results "$FOLDER" --device "$DEVICE" "$@"
}

limited receive "${LIMIT[receive]}" "$PYTHON" scripts/gpu/receive.py \
  --parcels "$PARCELS" --work "$WORK" --models "$MODELS" --study "$STUDY"
# Networks that have come are scored in 4 bits too, but not on a processor, which takes minutes.
for config in "$MODELS"/*/config.json; do
  [[ -e $config && ! $DRY ]] && FOUR_BIT+=(--model "${config%/config.json}")
done
part env card.py "${ENV[@]}"
# Warnings are errors at home. With the versions here they may say what nobody has seen yet, and
# would end a test before it has shown anything.
wanted tests && limited tests "${LIMIT[tests]}" "$PYTHON" -m pytest -W default \
  -p no:cacheprovider -p outcomes -m gpu tests/test_gpu.py tests/test_offload.py tests/test_quantised.py
part score scoring.py "${SCORE[@]}"
part four-bit four_bit.py "${FOUR_BIT[@]}"
part stream streaming.py "${STREAM[@]}"
if wanted study; then
  left=$((TOTAL - SECONDS))
  limited study "$left" "$PYTHON" scripts/gpu/run_study.py --results "$FOLDER" --device "$DEVICE" \
    --seconds "$((left - 5))" --data "$STUDY" --models "$MODELS" --work "$WORK" \
    --earlier "$RESULTS" "${TRIALS[@]}"
fi
echo "== done after $SECONDS s; failed or stopped: ${FAILED[*]:-none}; results: $FOLDER"
# What was being written when a part was stopped.
rm -f "$FOLDER"/.[a-z]*
ls -l "$FOLDER"
((${#FAILED[@]} == 0))
