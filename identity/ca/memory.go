// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"context"
	"maps"
	"sync"
)

// Memory is a Store for whoever embeds a CA that need not outlive the process, and for
// tests. The zero value is empty.
type Memory struct {
	mu       sync.Mutex
	files    Files
	watching map[*func()]bool // what Watch is to call
}

func (m *Memory) String() string { return "memory" }

// Read is part of Store.
func (m *Memory) Read(context.Context) (Files, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.files), nil
}

// Create is part of Store.
func (m *Memory) Create(_ context.Context, files Files) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.files != nil {
		return ErrExists
	}
	m.setLocked(files)
	return nil
}

// Replace is part of Store.
func (m *Memory) Replace(_ context.Context, was, next Files) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.files == nil || !m.files.replaceable(was, next) {
		return ErrChanged
	}
	m.setLocked(m.files.with(next))
	return nil
}

// Set puts files there as an operator does in other stores: without a question.
func (m *Memory) Set(files Files) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.setLocked(files)
}

func (m *Memory) setLocked(files Files) {
	m.files = maps.Clone(files)
	for changed := range m.watching {
		(*changed)()
	}
}

// Watch is part of Store.
func (m *Memory) Watch(ctx context.Context, changed func()) {
	m.mu.Lock()
	if m.watching == nil {
		m.watching = map[*func()]bool{}
	}
	m.watching[&changed] = true
	m.mu.Unlock()
	changed() // what was set before is told to nobody else
	<-ctx.Done()
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.watching, &changed)
}
