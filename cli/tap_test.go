// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-mesh/culvert/cli/clitest"
	"github.com/culvert-mesh/culvert/cli/fleet"
)

// stopped is a terminal on which ^S was typed.
type stopped struct {
	asked, goesOn chan struct{}
}

func (s stopped) Write(p []byte) (int, error) {
	select {
	case s.asked <- struct{}{}:
	default:
	}
	<-s.goesOn
	return len(p), nil
}

func tapNode(t *testing.T) string {
	return clitest.Serve(t, clitest.Ztunnel{Node: "node1", Events: []any{map[string]any{
		"event": "refused", "direction": "inbound", "error": "clear \u009b2J, \x7f and \x1b[2J",
	}}})
}

func TestTapEndsThoughItsTerminalIsStopped(t *testing.T) {
	out := stopped{make(chan struct{}, 1), make(chan struct{})}
	defer close(out.goesOn)
	ctx, interrupt := context.WithCancel(t.Context())
	code := make(chan int)
	node := tapNode(t)
	go func() {
		code <- Run(ctx, Process{Args: []string{"culvert", "tap", "--ztunnel", node}, Stdout: out, Stderr: out, Getenv: func(string) string { return "" }})
	}()
	<-out.asked
	interrupt()
	select {
	case got := <-code:
		if got != exitFail {
			t.Errorf("exit code %d", got)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("it does not end")
	}
}

// slow is a source that takes its time, though nobody wants its answer any more.
type slow struct{}

func (slow) Ztunnels(context.Context) ([]fleet.Target, error) {
	time.Sleep(10 * lastWords)
	return nil, nil
}

func (slow) CAs(context.Context) ([]fleet.Target, error) { return nil, nil }

// That nodes or a busy machine take long to end is no output that is held up.
func TestTapThatEndsSlowlyHasNotFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := Process{Stdout: io.Discard, Stderr: io.Discard}
		tap := &tapping{command: &command{Process: out}, out: &format{value: "json"}, during: lifetime(time.Second), silent: map[string]bool{}}
		if err := tap.listen(t.Context(), slow{}, nil); err != nil {
			t.Error(err)
		}
	})
}

// What hostile pods have nodes say is no order to the terminal in any format.
func TestNoFormatWritesControlCharacters(t *testing.T) {
	for format, want := range map[string]string{"json": `clear \u009b2J, \u007f and \u001b[2J`, "yaml": `2J, `, "table": "clear  2J,   and  [2J"} {
		var out bytes.Buffer
		code := Run(t.Context(), Process{Args: []string{"culvert", "tap", "--count", "1", "-o", format, "--ztunnel", tapNode(t)}, Stdout: &out, Stderr: io.Discard, Getenv: func(string) string { return "" }})
		text := out.String()
		if code != 0 || !strings.Contains(text, want) {
			t.Errorf("%s: %d: %q", format, code, text)
		}
		if i := strings.IndexFunc(text, func(r rune) bool { return r < ' ' && r != '\n' || r >= 0x7f && r < 0xa0 }); i >= 0 {
			t.Errorf("%s: %q stands in %q", format, text[i:i+1], text)
		}
	}
}
