#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs every fuzz target of the package in a directory, for FUZZTIME each, and says how often it
# ran. What they find beyond testdata/fuzz is kept below FUZZCACHE, where go test -fuzz has it.
set -euo pipefail
dir=$1
program=$PWD/bin/fuzz/${dir//\//-}.test

if ! out=$(go -C "$dir" test -c -fuzz=. -o "$program" 2>&1); then
	printf 'FAIL %s: does not build\n%s\n' "$dir" "$out"
	exit 1
fi
cache=$FUZZCACHE/$(go -C "$dir" list)
cd "$dir"
status=0
for target in $(grep -hoE '^func Fuzz[A-Za-z0-9_]*' ./*_test.go | cut -c6- | sort); do
	if out=$("$program" -test.run='^$' -test.fuzz="^$target\$" -test.fuzztime="$FUZZTIME" \
		-test.fuzzminimizetime=100x -test.parallel=1 -test.fuzzcachedir="$cache" 2>&1); then
		execs=$(grep -o 'execs: [0-9]*' <<<"$out" | tail -n 1) || true
		echo "ok   $dir $target: ${execs:-the corpus, and no time for more}"
	else
		printf 'FAIL %s %s\n%s\n' "$dir" "$target" "$out"
		status=1
	fi
done
exit "$status"
