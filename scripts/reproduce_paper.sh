#!/usr/bin/env bash
# The paper in one command: Kang & Herremans (2025), on the published splits and on leak-free ones.
#
#     scripts/reproduce_paper.sh DATA_ROOT [--encoder m-a-p/MERT-v1-95M] [--layers "6 7"] [--work DIR]
#         [--resamples 1000] [-- OPTION...]
#
# DATA_ROOT holds the corpora in the layouts of their archives: mtg_jamendo, deam, emomusic, pmemo (links will do).
# Features of all tracks, a teacher for each corpus, the students of several, the ablations; then a table beside the
# published numbers. Everything lies in --work (default: reproduction) and a run that was cut goes on where it was.
# OPTIONs go to every training, such as `-- --num_train_epochs 50 --bf16 True`. Of every command, PYTHON (default:
# python) and LAUNCH may be set: LAUNCH="accelerate launch --num_processes 4" for several GPUs.
#
# The published splits go with DEAM's annotations as released, as published; the leak-free ones with the repaired ones.
# Ablations run on the leak-free splits alone. Optimisation is the published one (recipes/).
set -euo pipefail

usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; }
root="" encoder="m-a-p/MERT-v1-95M" layers="6 7" work="reproduction" resamples=1000
while [ $# -gt 0 ]; do
    case "$1" in
        --encoder) encoder="${2:?--encoder needs a value}"; shift 2 ;;
        --layers) layers="${2:?--layers needs a value}"; shift 2 ;;
        --work) work="${2:?--work needs a value}"; shift 2 ;;
        --resamples) resamples="${2:?--resamples needs a value}"; shift 2 ;;
        -h | --help) usage; exit 0 ;;
        --) shift; break ;;
        -*) echo "reproduce_paper: unknown option $1; see --help" >&2; exit 2 ;;
        *) root="$1"; shift ;;
    esac
done
[ -n "$root" ] || { usage >&2; exit 2; }

python="${PYTHON:-python}"
read -r -a launch <<< "${LAUNCH:-$python}"
read -r -a layers <<< "$layers"
recipes="$(cd "$(dirname "$0")/../recipes" && pwd)"
corpora=(mtg_jamendo deam emomusic pmemo)
for corpus in "${corpora[@]}"; do
    [ -d "$root/$corpus" ] || { echo "reproduce_paper: $root/$corpus is missing; see --help" >&2; exit 1; }
done
mkdir -p "$work"

# once NAME COMMAND...: run a command unless it has been through before.
once() {
    local mark="$work/done/$1"
    shift
    [ -e "$mark" ] && return
    "$@"
    mkdir -p "$(dirname "$mark")"
    touch "$mark"
}

# train SPLITS NAME SCRIPT RECIPE "CORPUS..." [OPTION...]: train on the features of the corpora, unless it is done.
train() {
    local splits="$1" name="$2" script="$3" recipe="$4" features=() corpus
    for corpus in $5; do features+=("$work/features/$splits/$corpus"); done
    shift 5
    echo "== $splits: $name"
    once "$splits/$name" "${launch[@]}" -m "mer.scripts.$script" "$recipes/$recipe" --model "$work/base" \
        --features "${features[@]}" --output_dir "$work/runs/$splits/$name" "$@"
}

# student SPLITS NAME RECIPE "CORPUS..." [OPTION...]: train a student with the teachers of its corpora.
student() {
    local splits="$1" name="$2" recipe="$3" corpora="$4" teachers=() corpus
    shift 4
    for corpus in $corpora; do teachers+=("$corpus=$work/runs/$splits/$corpus"); done
    train "$splits" "$name" distill "$recipe" "$corpora" --teachers "${teachers[@]}" "$@"
}

once base "$python" -m mer.scripts.export_hub "$work/base" --encoder "$encoder" --layers "${layers[@]}"
for corpus in "${corpora[@]}"; do
    echo "== features: $corpus"
    features=("${launch[@]}" -m mer.scripts.extract_features --corpus "$corpus" --data_dir "$root/$corpus")
    features+=(--model "$work/base")
    once "features/published/$corpus" "${features[@]}" --out "$work/features/published/$corpus" \
        --splits published --valence_arousal as_released
    once "features/leak_free/$corpus" "${features[@]}" --out "$work/features/leak_free/$corpus" \
        --reuse "$work/features/published/$corpus"
done

all="${corpora[*]}"
for splits in published leak_free; do
    for corpus in "${corpora[@]}"; do
        train "$splits" "$corpus" train_teacher teacher.yaml "$corpus" "$@"
    done
    student "$splits" J+D distill.yaml "mtg_jamendo deam" "$@"
    student "$splits" J+E distill.yaml "mtg_jamendo emomusic" "$@"
    student "$splits" J+P distill.yaml "mtg_jamendo pmemo" "$@"
    student "$splits" J+D+E+P distill.yaml "$all" "$@"
done
student leak_free no-chords distill.yaml "$all" --use_chords False "$@"
student leak_free no-key distill.yaml "$all" --use_mode False "$@"
train leak_free no-distillation distill distill.yaml "$all" "$@"
student leak_free paper-distillation distill_paper.yaml "$all" "$@"

for splits in published leak_free; do
    models=("$work/runs/$splits"/*)
    features=("${corpora[@]/#/$work/features/$splits/}")
    once "$splits/matrix" "${launch[@]}" -m mer.scripts.evaluate_mer --models "${models[@]}" \
        --features "${features[@]}" --resamples "$resamples" --json "$work/$splits.json"
done
"$python" -m mer.scripts.paper_table "$work/published.json" "$work/leak_free.json" | tee "$work/table.md"
