// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"testing"
)

func TestAScreenIsReplacedOnATerminalAndContinuedElsewhere(t *testing.T) {
	var out bytes.Buffer
	plain := &screen{out: &out}
	for _, text := range []string{"one\n", "two\n"} {
		if err := plain.show("\nthen\n", []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := out.String(), "one\n\nthen\ntwo\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	out.Reset()
	small := &screen{out: &out, height: func() int { return 4 }}
	if err := small.show("x", []byte("1\n2\n3\n4\n5\n")); err != nil {
		t.Fatal(err)
	}
	if err := small.show("x", []byte("1\n2\n3\n")); err != nil {
		t.Fatal(err)
	}
	const clear = "\x1b[H\x1b[2J\x1b[3J"
	if got, want := out.String(), clear+"1\n2\n… 3 more lines\n"+clear+"1\n2\n3\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
