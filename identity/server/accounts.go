// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/ca"
)

// Account is what the CA's source knows of a ServiceAccount.
type Account struct {
	UID string
	TTL string // how long its certificates last, as 30m; its Namespace says
}

// Accounts are the ServiceAccounts, and for how long certificates are given, by the CA's
// own source. It is safe for concurrent use.
type Accounts struct {
	// Ask asks the API server for a ServiceAccount, now, before one is said to be gone;
	// none: where nobody can be asked, one that is not known has no UID. It is set before
	// the first request.
	Ask func(ctx context.Context, sa identity.ServiceAccount) (a Account, found bool, err error)

	log *slog.Logger

	mu       sync.Mutex // guards what follows
	accounts map[identity.ServiceAccount]Account
	ttls     map[speaker]ttl
	root     string // the namespace that speaks for the mesh
}

// ttl is what an object says of lifetimes.
type ttl struct {
	text    string // as it stands
	is      time.Duration
	wrong   bool // text is; is is what was said before, 0 if nothing was
	current bool // the object says so in the last picture
}

// speaker is a ServiceAccount, or, without a name, a Namespace.
type speaker struct{ namespace, account string }

func (s speaker) String() string {
	if s.account == "" {
		return "Namespace " + s.namespace
	}
	return "ServiceAccount " + s.namespace + "/" + s.account
}

// NewAccounts returns one that knows of none yet.
func NewAccounts(log *slog.Logger) *Accounts {
	return &Accounts{log: log, ttls: map[speaker]ttl{}}
}

// Replace takes over the full picture. Namespaces are those that say for how long; root
// is the one that speaks for the mesh. A value that is wrong is said once, and changes
// nothing.
func (a *Accounts) Replace(accounts map[identity.ServiceAccount]Account, namespaces map[string]string, root string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for sa, next := range accounts {
		if old, known := a.accounts[sa]; known && old.UID != next.UID {
			a.log.Warn("ServiceAccount was made anew; certificates of before are another's", logAccount, sa.String(), logUID, next.UID, logBefore, old.UID)
		}
		a.sayLocked(speaker{sa.Namespace, sa.Name}, next.TTL)
	}
	for name, text := range namespaces {
		a.sayLocked(speaker{name, ""}, text)
	}
	for o, t := range a.ttls {
		if !t.current {
			delete(a.ttls, o)
			continue
		}
		t.current = false
		a.ttls[o] = t
	}
	a.accounts, a.root = accounts, root
}

// sayLocked takes what an object says of lifetimes.
func (a *Accounts) sayLocked(o speaker, text string) {
	if text == "" {
		return
	}
	t := a.ttls[o]
	if t.text != text {
		is, err := parseTTL(text)
		t.text, t.wrong = text, err != nil
		if err == nil {
			t.is = is
		} else {
			a.log.Error("the lifetime of certificates that an annotation gives is not understood; what was in force stays", logObject, o.String(), logError, err)
		}
	}
	t.current = true
	a.ttls[o] = t
}

func parseTTL(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil || d < ca.MinTTL || d > ca.MaxTTL {
		return 0, fmt.Errorf("%.40q: want %v to %v, as 30m or 12h", text, ca.MinTTL, ca.MaxTTL)
	}
	return d, nil
}

// lifetime is what the ServiceAccount, its Namespace or the mesh says, in this order, and
// who did; 0: nobody.
func (a *Accounts) lifetime(sa identity.ServiceAccount) (is time.Duration, by string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, o := range []speaker{{sa.Namespace, sa.Name}, {sa.Namespace, ""}, {a.root, ""}} {
		if t := a.ttls[o]; t.is > 0 {
			return t.is, o.String()
		}
	}
	return 0, ""
}

// wrong counts the objects that say what is not understood.
func (a *Accounts) wrong() (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, t := range a.ttls {
		if t.wrong {
			n++
		}
	}
	return n
}

// find returns a ServiceAccount, if the source knows it.
func (a *Accounts) find(sa identity.ServiceAccount) (found Account, there bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	found, there = a.accounts[sa]
	return found, there
}
