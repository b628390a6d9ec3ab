// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
)

// One that did not change its level is not asked for its name: it would be waited for twice.
func TestOneThatKeepsItsLevelIsAskedNothingMore(t *testing.T) {
	for _, silent := range []error{errors.New("it is silent"), nil} {
		var dialed atomic.Int32
		target := Target{
			Name:  "127.0.0.1:1",
			level: func(context.Context, string) ([]byte, error) { return []byte("level debug\n"), silent },
			dial: func(context.Context, int) (net.Conn, error) {
				dialed.Add(1)
				return nil, errors.New("away")
			},
		}
		_, problems := SetLevels(t.Context(), []Target{target}, "debug")
		if !errors.Is(problems[0], silent) || (dialed.Load() > 0) != (silent == nil) {
			t.Errorf("%v: problem %v, dialed %d times", silent, problems[0], dialed.Load())
		}
	}
}
