// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"sync"

	"github.com/culvert-mesh/culvert/ztunnel/source"
)

// key names an object.
type key struct {
	kind source.Kind
	source.Name
}

func (k key) String() string { return string(k.kind) + " " + k.Name.String() }

// due are the objects whose condition is to be written, each once. Namespaces take turns,
// so that whoever changes many of its own holds up nobody else's.
type due struct {
	more chan struct{} // holds one when there may be some

	mu    sync.Mutex // guards what follows
	of    map[string][]key
	has   map[key]bool
	turns []string // the namespaces of of, the next first
}

func newDue() *due {
	return &due{more: make(chan struct{}, 1), of: map[string][]key{}, has: map[key]bool{}}
}

func (d *due) add(k key) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.has[k] {
		return
	}
	d.has[k] = true
	if d.of[k.Namespace] == nil {
		d.turns = append(d.turns, k.Namespace)
	}
	d.of[k.Namespace] = append(d.of[k.Namespace], k)
	select {
	case d.more <- struct{}{}:
	default:
	}
}

// take returns the next one, which is then not due any more.
func (d *due) take() (k key, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.turns) == 0 {
		return k, false
	}
	namespace := d.turns[0]
	d.turns = d.turns[1:]
	of := d.of[namespace]
	k = of[0]
	delete(d.has, k)
	if len(of) == 1 {
		delete(d.of, namespace)
	} else {
		d.of[namespace] = of[1:]
		d.turns = append(d.turns, namespace)
	}
	return k, true
}
