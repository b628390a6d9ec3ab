// SPDX-License-Identifier: Apache-2.0

// Package programtest tests what the programs have in common.
package programtest

import (
	"flag"
	"fmt"
	"strings"
	"testing"
)

// RefusesWrongFlags gives every flag of flags its wrong values, and those that are
// wrong for all. parse must refuse each, say what is expected of it, and name the
// flag. A flag without a wrong value fails the test.
func RefusesWrongFlags(t *testing.T, flags *flag.FlagSet, wrong map[string][][2]string, parse func(args ...string) error) {
	t.Helper()
	if err := parse(); err != nil {
		t.Fatal(err)
	}
	flags.VisitAll(func(f *flag.Flag) {
		rows, ok := wrong[f.Name]
		if !ok {
			t.Errorf("-%s: no wrong value of it is known", f.Name)
		}
		if f.Name != "version" { // the standard library's
			rows = append(rows, [2]string{"", "it is empty"}, [2]string{"  ", "it is empty"}, [2]string{" x", "a space"}, [2]string{"x\n", "a space"})
		}
		for _, row := range rows {
			err := parse(fmt.Sprintf("-%s=%s", f.Name, row[0]))
			if err == nil || !strings.Contains(err.Error(), row[1]) {
				t.Errorf("-%s %.40q: %v, want %q", f.Name, row[0], err, row[1])
			}
			if err != nil && !strings.Contains(err.Error(), "-"+f.Name) {
				t.Errorf("-%s %.40q: %v does not name the flag", f.Name, row[0], err)
			}
		}
	})
}
