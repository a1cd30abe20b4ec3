#!/usr/bin/env bash
# Shows that the tests notice bugs: builds once with bugs on purpose (`src/mutants.rs`), and demands that the tests
# which tests/mutants.txt names for each pass without it and fail within a minute with it.
#
#   tests/mutants.sh                all of them
#   tests/mutants.sh lane.no_grace  these
#   tests/mutants.sh --rotate 3     three, others each day
set -euo pipefail
cd "$(dirname "$0")/.."

limit=60
mapfile -t table < <(grep -v '^#' tests/mutants.txt | grep .)

# A name that stands in one place and not in the other would never be run, or survive for ever.
difference="$(diff <(printf '%s\n' "${table[@]}" | cut -d' ' -f1 | sort -u) \
    <(grep -rhoE 'mutant!\("[a-z_.]+"\)|^ *\(?"python\.[a-z_]+",' src | grep -oE '"[^"]+"' | tr -d '"' |
        grep -vx name | sort -u) || true)"
if [ -n "$difference" ]; then
    printf 'tests/mutants.txt (<) and src (>) differ:\n%s\n' "$difference" >&2
    exit 1
fi

if [ "${1-}" = --rotate ]; then
    first=$(($(date +%s) / 86400 * $2))
    chosen=()
    for ((n = 0; n < $2; n++)); do
        chosen+=("${table[(first + n) % ${#table[@]}]}")
    done
elif [ $# -gt 0 ]; then
    chosen=()
    for name in "$@"; do
        lines="$(printf '%s\n' "${table[@]}" | grep -E "^${name//./\\.} ")" || {
            echo "no mutant $name" >&2
            exit 1
        }
        mapfile -t -O "${#chosen[@]}" chosen <<<"$lines"
    done
else
    chosen=("${table[@]}")
fi

# More than by hand would be beyond the limit.
unset SNAKEBRIDGE_SIM_SEEDS SNAKEBRIDGE_ACTOR_SEEDS SNAKEBRIDGE_FUZZ_SECONDS SNAKEBRIDGE_CODEC_ROUNDS
# What was built without it has no bugs, and they would all survive.
export SNAKEBRIDGE_WITH_MUTANTS=1
built="$(cargo test --no-run --features mutants --lib --test it 2>&1)" || {
    printf '%s\n' "$built" >&2
    exit 1
}
program() {
    printf '%s\n' "$built" | sed -nE "s|.*Executable .*$1.* \((.*)\)|\1|p"
}
lib="$(program src/lib.rs)"
it="$(program tests/it/main.rs)"

# A bug may leave files, and processes that know nothing of this script but what they inherit.
TMPDIR="$(mktemp -d)"
export TMPDIR
export SNAKEBRIDGE_MUTANTS_MARK="snakebridge-mutants-$$-$(date +%s%N)"
kill_left_over() {
    local environ pid
    for environ in /proc/[0-9]*/environ; do
        pid="${environ#/proc/}"
        pid="${pid%/environ}"
        if grep -qsaF "SNAKEBRIDGE_MUTANTS_MARK=$SNAKEBRIDGE_MUTANTS_MARK" "$environ"; then
            kill -KILL "$pid" 2>/dev/null || true
        fi
    done
}
clean_up() {
    kill_left_over
    rm -rf "$TMPDIR"
}
trap clean_up EXIT

# Runs tests for so many seconds at most, with a mutant or none.
run() {
    local seconds="$1" mutant="$2" kind="$3"
    shift 3
    local status=0
    # Into a file: a process that a bug has left would keep a pipe open.
    SNAKEBRIDGE_MUTANT="$mutant" timeout -k 5 "$seconds" "${!kind}" "$@" >"$TMPDIR/output" 2>&1 || status=$?
    kill_left_over
    cat "$TMPDIR/output"
    return "$status"
}

declare -A sound=()
wrong=0
for line in "${chosen[@]}"; do
    read -r name kind filters <<<"$line"
    read -ra filters <<<"$filters"
    key="$kind ${filters[*]}"
    if [ -z "${sound[$key]-}" ]; then
        output="$(run 600 '' "$kind" "${filters[@]}")" && grep -qE '[1-9][0-9]* passed' <<<"$output" || {
            printf '%-32s %s fails without it, or tests nothing:\n%s\n' "$name" "$key" "$output"
            wrong=1
            continue
        }
        sound[$key]=1
    fi
    begun=$SECONDS
    status=0
    output="$(run "$limit" "$name" "$kind" "${filters[@]}")" || status=$?
    case $status in
    0) what='SURVIVED' wrong=1 ;;
    124 | 137) what="NOT TOLD within $limit s" wrong=1 ;;
    *) what='caught' ;;
    esac
    by="$(grep -m1 -oE '^test .* FAILED' <<<"$output" | cut -d' ' -f2 || true)"
    # A program that ends for another reason has noticed nothing.
    [ "$what" != caught ] || [ -n "$by" ] || {
        what="ENDED WITH $status" wrong=1
        tail -n 20 <<<"$output"
    }
    printf '%-32s %s by %s in %s s (%s)\n' "$name" "$what" "${by:-none}" $((SECONDS - begun)) "$key"
done
exit $wrong
