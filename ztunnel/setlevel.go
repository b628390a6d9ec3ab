// SPDX-License-Identifier: Apache-2.0

package ztunnel

import (
	"context"
	"fmt"
	"net/url"

	"github.com/culvert-mesh/culvert/ztunnel/admin"
)

// SetLevel has the ztunnel whose state is in a directory log from a level on, which is as
// loglevel.Check takes it, or, if that is empty, from the one that it was started with. It
// returns its answer: a line "level LEVEL", and "SCOPE LEVEL" for each scope.
func SetLevel(ctx context.Context, stateDir, level string) ([]byte, error) {
	query := url.Values{"level": {level}}
	if level == "" {
		query = url.Values{"reset": {""}}
	}
	socket := Config{StateDir: stateDir}.adminSocket()
	answer, err := admin.Post(ctx, socket, "/logging?"+query.Encode())
	if err != nil {
		return nil, fmt.Errorf("ask ztunnel at %s: %w", socket, err)
	}
	return answer, nil
}
