// SPDX-License-Identifier: Apache-2.0

package env

import (
	"strings"
	"sync"
)

// Log is a log that can be read while several write to it.
type Log struct {
	mu   sync.Mutex
	text strings.Builder
}

// Write is part of io.Writer.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// String is what was written so far.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Count is how often a text was written.
func (l *Log) Count(text string) int { return strings.Count(l.String(), text) }
