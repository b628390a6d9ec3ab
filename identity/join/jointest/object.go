// SPDX-License-Identifier: Apache-2.0

package jointest

import (
	"context"
	"maps"
	"strconv"
	"sync"
	"time"

	"github.com/culvert-mesh/culvert/identity/join"
)

// Object is a join.Object in memory.
type Object struct {
	Takes time.Duration // each read

	mu      sync.Mutex // guards what follows
	data    map[string][]byte
	version int // 0: it is not there
	reads   int
}

func (o *Object) String() string { return "Object in memory" }

// Reads is how many reads have begun.
func (o *Object) Reads() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.reads
}

// Data is what the object holds.
func (o *Object) Data() map[string][]byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	return maps.Clone(o.data)
}

// Read is part of join.Object. It returns what there was when it began.
func (o *Object) Read(ctx context.Context) (map[string][]byte, string, error) {
	o.mu.Lock()
	o.reads++
	data, version := maps.Clone(o.data), o.version
	o.mu.Unlock()
	select {
	case <-time.After(o.Takes):
	case <-ctx.Done():
		return nil, "", context.Cause(ctx)
	}
	if version == 0 {
		return nil, "", nil
	}
	return data, strconv.Itoa(version), nil
}

// Replace is part of join.Object.
func (o *Object) Replace(_ context.Context, data map[string][]byte, version string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if now := strconv.Itoa(o.version); version != now && (version != "" || o.version != 0) {
		return join.ErrChanged
	}
	o.data, o.version = maps.Clone(data), o.version+1
	return nil
}
